"""Trainings and batches on Bedrock, against a control plane and an S3 on this machine that keep what they are given."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

import botocore.session
import pytest
from botocore.validate import ParamValidator
from pydantic import TypeAdapter

from tanuki_async._errors import (
    AuthenticationError,
    ProviderUnavailableError,
    ProviderUnreachableError,
    RateLimitedError,
    RefusalError,
    RequestRejectedError,
    SettingsError,
)
from tanuki_async._models import split_name
from tanuki_async._pool.http import Connections
from tanuki_async._records import AnswerSchema, Completion, Head, Job, Reply, Request, Training, Turn, Usage
from tanuki_async.providers.bedrock import Bedrock
from tanuki_async.testing import Fault, LoopbackServer
from tanuki_async.testing._http import HttpRequest

TypeAdapter(int)  # pydantic looks for its plugins on disk, once; patched functions always come first

FIXTURES = Path(__file__).parent / "fixtures" / "bedrock"
SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
BUCKET, ROLE = "s3://acme-tanuki/train", "arn:aws:iam::111122223333:role/TanukiBedrock"
JOB = "arn:aws:bedrock:us-east-1:111122223333:model-customization-job/amazon.nova-micro-v1:0:128k/abcdefghij12"
BATCH = "arn:aws:bedrock:us-east-1:111122223333:model-invocation-job/abcdefghij12"
DEPLOYED = "arn:aws:bedrock:us-east-1:111122223333:custom-model-deployment/abcdefghij12"
JOBS, DEPLOYMENTS = "/model-customization-jobs", "/model-customization/custom-model-deployments"
SERVICE = botocore.session.Session().get_service_model("bedrock")
OPERATIONS = {
    ("POST", JOBS): "CreateModelCustomizationJob",
    ("POST", DEPLOYMENTS): "CreateCustomModelDeployment",
    ("POST", "/model-invocation-job"): "CreateModelInvocationJob",
}
LINES = (
    (
        b'{"messages":[{"role":"system","content":"Classify the sentiment."},{"role":"user","content":"I love you"},'
        b'{"role":"assistant","content":"Good"}]}'
    ),
    b'{"messages":[{"role":"user","content":"I love you"}]}',
)
TRAINING = Training(base="amazon.nova-micro-v1:0:128k", tag="abc", lines=LINES, epochs=2)


def fixture(name: str) -> dict[str, Any]:
    return json.loads((FIXTURES / f"{name}.json").read_text())


def refusal(code: str, status: int = 400, message: str = "No.") -> Reply:
    return Reply(status=status, headers={"x-amzn-errortype": code}, body=json.dumps({"message": message}).encode())


@dataclass
class Aws:
    """What the account holds, and what was asked of it. `answers` come before what would be said otherwise."""

    jobs: list[dict[str, Any]] = field(default_factory=list)
    batches: list[dict[str, Any]] = field(default_factory=list)
    deployments: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    answers: dict[tuple[str, str], Any] = field(default_factory=dict)
    asked: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)

    def __call__(self, request: HttpRequest) -> Any:
        assert "authorization" in request.headers
        path = unquote(request.path.removeprefix("/v1"))
        if path.startswith("/acme-tanuki/"):
            return self._file(request, f"s3:/{path}")
        sent = json.loads(request.body) if request.body else {}
        self.asked.append((request.method, path, sent))
        if operation := OPERATIONS.get((request.method, path)):
            sent.pop("modelInvocationType", None)  # newer than the installed service model
            report = ParamValidator().validate(sent, SERVICE.operation_model(operation).input_shape)
            assert not report.has_errors(), report.generate_report()
        if (answer := self.answers.pop((request.method, path), None)) is not None:
            return answer
        return self._control(request.method, path, sent, parse_qs(request.query))

    def _file(self, request: HttpRequest, uri: str) -> Reply:
        assert "AWS4-HMAC-SHA256" in request.headers["authorization"]
        if request.method == "PUT":
            self.files[uri] = request.body
            return Reply(status=200, headers={}, body=b"")
        if uri not in self.files:
            missing = b"<Error><Code>NoSuchKey</Code><Message>The key does not exist.</Message></Error>"
            return Reply(status=404, headers={"content-type": "application/xml"}, body=missing)
        return Reply(status=200, headers={}, body=self.files[uri])

    def _control(self, method: str, path: str, sent: dict[str, Any], query: dict[str, list[str]]) -> Any:
        if (method, path) == ("POST", JOBS):
            self.jobs.insert(0, {"jobArn": JOB, "status": "InProgress", **sent})
            return {"jobArn": JOB}
        if (method, path) == ("POST", "/model-invocation-job"):
            self.batches.insert(0, {"jobArn": BATCH, "status": "Submitted", **sent})
            return {"jobArn": BATCH}
        if (method, path) == ("POST", DEPLOYMENTS):
            self.deployments.append({"status": "Creating", **sent})
            return {"customModelDeploymentArn": DEPLOYED}
        named = [job for job in self.jobs if query.get("nameContains", [""])[0] in job["jobName"]]
        if path == JOBS:
            return {"modelCustomizationJobSummaries": named}
        if path == DEPLOYMENTS:
            (made,) = query["modelArnEquals"]
            return {"modelDeploymentSummaries": [each for each in self.deployments if each["modelArn"] == made]}
        if path == "/model-invocation-jobs":
            return {"invocationJobSummaries": self.batches}
        if path.endswith("/stop"):
            for job in (*self.jobs, *self.batches):
                job["status"] = "Stopping"
            return {}
        found = next((job for job in (*self.jobs, *self.batches) if path.endswith(job["jobArn"])), None)
        return found or refusal("ResourceNotFoundException", 404)


class Server(LoopbackServer):
    """Answers every path as the account would."""

    def __init__(self) -> None:
        super().__init__()
        self.aws = Aws()

    def _ask(self, request: HttpRequest) -> tuple[object, object]:
        return request, self.aws(request)


@dataclass
class Setup:
    aws: Aws
    http: Connections
    provider: Bedrock

    @property
    def creations(self) -> list[str]:
        return [path for method, path, _ in self.aws.asked if method == "POST"]


@pytest.fixture
async def setup(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Setup]:
    async with Server() as server:
        aws = server.aws
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        http = Connections()
        yield Setup(aws, http, Bedrock(tuning_bucket=BUCKET + "/", tuning_role=ROLE))
        await http.aclose()


# Trainings


async def test_a_training_is_uploaded_in_bedrocks_form_and_started(setup: Setup) -> None:
    training = replace(TRAINING, validation=LINES[:1])
    job = await setup.provider.tuning.start(training, setup.http)
    assert job == Job(id=JOB, status="running", told="InProgress", tag="abc")
    folder = f"{BUCKET}/tanuki-abc"
    recorded = fixture("training_data_lines")
    assert [json.loads(line) for line in setup.aws.files[f"{folder}/train.jsonl"].splitlines()] == [
        recorded["sft_or_distillation_with_labels"],
        recorded["distillation_prompt_only"],
    ]
    assert setup.aws.files[f"{folder}/validation.jsonl"].count(b"\n") == 1
    (sent,) = [sent for method, _, sent in setup.aws.asked if method == "POST"]
    assert sent == {
        "jobName": "tanuki-abc",
        "customModelName": "tanuki-abc",
        "clientRequestToken": "tanuki-abc",
        "roleArn": ROLE,
        "baseModelIdentifier": "amazon.nova-micro-v1:0:128k",
        "customizationType": "FINE_TUNING",
        "hyperParameters": {"epochCount": "2"},
        "trainingDataConfig": {"s3Uri": f"{folder}/train.jsonl"},
        "validationDataConfig": {"validators": [{"s3Uri": f"{folder}/validation.jsonl"}]},
        "outputDataConfig": {"s3Uri": f"{folder}/out/"},
    }


async def test_with_a_teacher_a_training_is_a_distillation(setup: Setup) -> None:
    teacher = "us.amazon.nova-premier-v1:0"
    provider = Bedrock(tuning_bucket=BUCKET, tuning_role=ROLE, tuning_teacher=teacher)
    await provider.tuning.start(TRAINING, setup.http)
    (sent,) = [sent for method, _, sent in setup.aws.asked if method == "POST"]
    recorded = fixture("customization_jobs_by_status")["bodies"]["InProgress"]
    assert sent["customizationType"] == recorded["customizationType"] == "DISTILLATION"
    assert sent["customizationConfig"] == recorded["customizationConfig"]
    assert "hyperParameters" not in sent


async def test_the_same_tag_is_one_job_however_often_it_is_started(setup: Setup) -> None:
    first = await setup.provider.tuning.start(TRAINING, setup.http)
    again = await setup.provider.tuning.start(TRAINING, setup.http)
    assert first.id == again.id
    assert setup.creations == [JOBS]


async def test_somebody_elses_start_of_the_same_tag_in_between_is_found(setup: Setup) -> None:
    body = fixture("customization_jobs_by_status")["bodies"]["InProgress"]

    setup.aws.jobs.append({**body, "jobName": "tanuki-abc"})
    setup.aws.answers["GET", JOBS] = {"modelCustomizationJobSummaries": []}  # it was not there a moment before
    setup.aws.answers["POST", JOBS] = refusal("ConflictException", 400, "The name is taken.")
    job = await setup.provider.tuning.start(TRAINING, setup.http)
    assert job.id == body["jobArn"]


@pytest.mark.parametrize(
    ("refused", "kind", "code"),
    [
        (refusal("ValidationException", 400, "The model does not support customization."), RequestRejectedError, None),
        (refusal("ConflictException", 400, "Somebody else's."), RequestRejectedError, "ConflictException"),
        (refusal("AccessDeniedException", 403), AuthenticationError, ""),
        (refusal("ThrottlingException", 429), RateLimitedError, ""),
        (Fault.cut_midway(), ProviderUnreachableError, ""),
    ],
)
async def test_what_keeps_a_training_from_starting_is_raised(
    setup: Setup, refused: Any, kind: type[Exception], code: str | None
) -> None:
    setup.aws.answers["POST", JOBS] = refused
    with pytest.raises(kind) as caught:
        await setup.provider.tuning.start(TRAINING, setup.http)
    if isinstance(caught.value, RequestRejectedError):
        assert caught.value.code == (code or "training_not_available")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "tuning_bucket='s3://bucket/prefix'"),
        ({"tuning_bucket": BUCKET}, "tuning_role="),
        ({"tuning_bucket": "bucket", "tuning_role": ROLE}, "looks like 's3://bucket/prefix', not 'bucket'"),
        ({"tuning_bucket": BUCKET, "tuning_role": "role"}, "tuning_role looks like"),
    ],
)
async def test_without_a_place_and_a_role_the_error_says_what_to_pass(
    setup: Setup, options: dict[str, str], says: str
) -> None:
    with pytest.raises(SettingsError, match=re.escape(says)):
        await Bedrock(**options).tuning.start(TRAINING, setup.http)
    with pytest.raises(SettingsError, match=re.escape(says)):
        await Bedrock(**options).batches.submit({}, tag="b", http=setup.http)
    assert setup.aws.asked == []


@pytest.mark.parametrize("told", ["InProgress", "Failed", "Stopping", "Stopped"])
async def test_each_status_of_a_training_is_understood(setup: Setup, told: str) -> None:
    statuses = {"InProgress": "running", "Stopping": "running", "Failed": "failed", "Stopped": "cancelled"}
    body = fixture("customization_jobs_by_status")["bodies"][told]
    setup.aws.jobs.append(body)
    job = await setup.provider.tuning.get(body["jobArn"], setup.http)
    assert job == Job(
        id=body["jobArn"], status=statuses[told], told=told, tag="abc", reason=body.get("failureMessage")
    )  # fmt: skip
    assert await setup.provider.tuning.jobs(setup.http) == [replace(job, reason=None)]


async def completed(setup: Setup) -> Job:
    body = fixture("customization_jobs_by_status")["bodies"]["Completed"]
    setup.aws.jobs[:] = [body]
    return await setup.provider.tuning.get(body["jobArn"], setup.http)


async def test_what_a_completed_training_made_is_deployed_by_the_token_once(setup: Setup) -> None:
    assert (await completed(setup)).status == "running"
    assert (await completed(setup)).status == "running"
    assert setup.creations == [DEPLOYMENTS]
    setup.aws.deployments[0] |= {"status": "Active", "customModelDeploymentArn": DEPLOYED}
    job = await completed(setup)
    assert (job.status, job.model, job.reason) == ("succeeded", DEPLOYED, None)
    assert (await setup.provider.tuning.find("abc", setup.http)) == job


@pytest.mark.parametrize("told", ["Creating", "Active", "Failed"])
async def test_each_status_of_a_deployment_is_understood(setup: Setup, told: str) -> None:
    setup.aws.deployments.append(fixture("custom_model_serving")["deployment_by_status"][told])
    job = await completed(setup)
    assert (job.status, job.model) == {
        "Creating": ("running", None),
        "Active": ("succeeded", DEPLOYED),
        "Failed": ("succeeded", None),
    }[told]
    assert setup.creations == []


@pytest.mark.parametrize("field", ["modelArn", "provisionedModelArn", "foundationModelArn"])
async def test_what_serves_a_trained_model_is_asked_by_its_arn(setup: Setup, field: str) -> None:
    arn = fixture("custom_model_serving")["provisioned_by_status"]["InService"][field]
    model = setup.provider.model(split_name(f"bedrock:{arn}")[1])
    assert model.name == arn
    assert (model.context_window, model.structured) == (128_000, "json_schema" if "provisioned" in arn else "tool")
    assert (model.price_input is None) == ("foundation" not in arn)  # its price is its account's


@pytest.mark.parametrize("how", ["refused", "failed", "forbidden"])
async def test_what_only_hourly_throughput_could_serve_is_not_served_but_explained(setup: Setup, how: str) -> None:
    made = fixture("customization_jobs_by_status")["bodies"]["Completed"]["outputModelArn"]
    if how == "refused":
        setup.aws.answers["POST", DEPLOYMENTS] = refusal("ValidationException", 400, "Not on demand.")
    elif how == "forbidden":
        setup.aws.answers["GET", DEPLOYMENTS] = refusal("AccessDeniedException", 403, "Not allowed.")
    else:
        setup.aws.deployments.append({"modelArn": made, "status": "Failed", "failureMessage": "Broken."})
    job = await completed(setup)
    assert (job.status, job.model) == ("succeeded", None)
    assert job.reason is not None
    assert "billed by the hour" in job.reason
    assert made in job.reason
    assert not any("provisioned" in path for _, path, _ in setup.aws.asked)


async def test_a_deployment_that_cannot_be_looked_up_now_is_looked_up_later(setup: Setup) -> None:
    setup.aws.answers["GET", DEPLOYMENTS] = refusal("ServiceUnavailableException", 503)
    with pytest.raises(ProviderUnavailableError):
        await completed(setup)


async def test_a_training_can_be_cancelled_also_when_it_has_ended(setup: Setup) -> None:
    job = await setup.provider.tuning.start(TRAINING, setup.http)
    assert (await setup.provider.tuning.cancel(job.id, setup.http)).told == "Stopping"
    setup.aws.answers["POST", f"{JOBS}/{JOB}/stop"] = refusal("ConflictException")
    assert (await setup.provider.tuning.cancel(job.id, setup.http)).told == "Stopping"
    with pytest.raises(RequestRejectedError):
        await setup.provider.tuning.cancel("arn:nobody", setup.http)


async def test_a_tag_that_is_part_of_anothers_is_told_apart(setup: Setup) -> None:
    await setup.provider.tuning.start(replace(TRAINING, tag="abc-2"), setup.http)
    assert await setup.provider.tuning.find("abc", setup.http) is None


# Batches


def requests(provider: Bedrock, count: int = 100, name: str = "us.anthropic.claude-haiku-5-5") -> dict[str, Request]:
    answer = AnswerSchema(name="f", schema={"type": "object", "properties": {}}, strict=True)
    head = Head(function="f", system="Classify.", answer=answer)
    model = provider.model(name)
    return {
        f"CALL{number:07}": Request(model=model, head=head, turns=(Turn("user", f"hi {number}"),))
        for number in range(count)
    }


async def test_a_batch_is_written_to_s3_and_submitted_once(setup: Setup) -> None:
    asked = requests(setup.provider)
    job = await setup.provider.batches.submit(asked, tag="b-1", http=setup.http)
    assert job == Job(id=BATCH, status="running", told="Submitted", tag="b-1")
    assert (await setup.provider.batches.submit(asked, tag="b-1", http=setup.http)).id == BATCH
    assert setup.creations == ["/model-invocation-job"]
    lines = [json.loads(line) for line in setup.aws.files[f"{BUCKET}/tanuki-b-1/requests.jsonl"].splitlines()]
    assert [line["recordId"] for line in lines] == list(asked)
    assert lines[7]["modelInput"]["messages"][-1] == {"role": "user", "content": [{"text": "hi 7"}]}
    assert lines[7]["modelInput"]["outputConfig"]["textFormat"]["type"] == "json_schema"


async def test_a_batch_holds_no_tools(setup: Setup) -> None:
    asked = requests(setup.provider, name="amazon.nova-lite-v1:0")
    await setup.provider.batches.submit(asked, tag="b", http=setup.http)
    assert b"toolConfig" not in setup.aws.files[f"{BUCKET}/tanuki-b/requests.jsonl"]


async def test_what_cannot_be_one_batch_is_refused_before_sending(setup: Setup) -> None:
    few, other = requests(setup.provider, 99), requests(setup.provider, 1, "amazon.nova-lite-v1:0")
    with pytest.raises(RequestRejectedError, match="at least 100"):
        await setup.provider.batches.submit(few, tag="b", http=setup.http)
    with pytest.raises(RequestRejectedError, match="one model"):
        await setup.provider.batches.submit({**few, "x": next(iter(other.values()))}, tag="b", http=setup.http)
    assert setup.aws.asked == []


@pytest.mark.parametrize("told", list(fixture("batch_invocation_jobs")["bodies"]))
async def test_each_status_of_a_batch_is_understood(setup: Setup, told: str) -> None:
    ends = {
        "Completed": "succeeded",
        "PartiallyCompleted": "succeeded",
        "Failed": "failed",
        "Expired": "failed",
        "Stopped": "cancelled",
    }
    body = fixture("batch_invocation_jobs")["bodies"][told]
    setup.aws.batches.append(body)
    job = await setup.provider.batches.get(body["jobArn"], setup.http)
    assert (job.status, job.told, job.tag) == (ends.get(told, "running"), told, "batch")
    assert job.output == ("s3://acme-tanuki/out/abcdefghij12/b.jsonl.out" if told in ends else None)


async def test_results_are_read_from_the_file_of_results(setup: Setup) -> None:
    recorded = fixture("batch_invocation_jobs")
    answers = fixture("invoke_bodies")
    lines = [
        recorded["output_line"],
        recorded["output_line_error"],
        {"recordId": "L", "modelOutput": answers["meta_llama"]["response"]},
        {"recordId": "T", "modelOutput": answers["titan_text"]["response"]},
        {"recordId": "R", "modelOutput": {"output": {"message": {}}, "stopReason": "content_filtered"}},
        {"recordId": "N"},
    ]
    output = "s3://acme-tanuki/out/abcdefghij12/b.jsonl.out"
    setup.aws.files[output] = b"\n".join(json.dumps(line).encode() for line in lines) + b"\n\n"
    job = Job(id=BATCH, status="succeeded", output=output)
    found = {key: result async for key, result in setup.provider.batches.results(job, setup.http)}
    good = found.pop("CALL0000001")
    assert isinstance(good, Completion)
    assert (good.text, good.usage) == ("Good", Usage(requests=1, input_tokens=4, output_tokens=1))
    assert [found[key].text for key in "LT" if isinstance(found[key], Completion)] == ['{"value":"Good"}'] * 2
    wrong = found["CALL0000002"]
    assert isinstance(wrong, RequestRejectedError)
    assert (wrong.message, wrong.status) == ("bad request", 400)
    assert isinstance(found["R"], RefusalError)
    assert isinstance(found["N"], ProviderUnavailableError)


async def test_a_batch_that_was_stopped_early_has_no_results_but_a_missing_file_is_told(setup: Setup) -> None:
    output = "s3://acme-tanuki/out/abcdefghij12/b.jsonl.out"
    stopped, done = (Job(id=BATCH, status=status, output=output) for status in ("cancelled", "succeeded"))
    assert [each async for each in setup.provider.batches.results(stopped, setup.http)] == []
    running = Job(id=BATCH, status="running")
    assert [each async for each in setup.provider.batches.results(running, setup.http)] == []
    with pytest.raises(RequestRejectedError, match="The key does not exist"):
        [each async for each in setup.provider.batches.results(done, setup.http)]


async def test_a_batch_can_be_cancelled(setup: Setup) -> None:
    job = await setup.provider.batches.submit(requests(setup.provider), tag="b", http=setup.http)
    assert (await setup.provider.batches.cancel(job.id, setup.http)).told == "Stopping"
    setup.aws.answers["POST", f"/model-invocation-job/{BATCH}/stop"] = refusal("ConflictException")
    assert (await setup.provider.batches.cancel(job.id, setup.http)).status == "running"
