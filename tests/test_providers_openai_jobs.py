"""Trainings and batches over OpenAI's endpoints: one per tag, whatever is lost on the way; every status is understood."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from _jobs import OpenAIJobs, fixture
from pydantic import TypeAdapter

from tanuki_async._errors import (
    AuthenticationError,
    ProviderError,
    ProviderUnavailableError,
    ProviderUnreachableError,
    RefusalError,
    RequestRejectedError,
    UsageError,
)
from tanuki_async._models import split_name, tuned_prices
from tanuki_async._pool.http import Connections
from tanuki_async._records import AnswerSchema, Completion, Head, Job, Reply, Request, Training, Turn
from tanuki_async.abc import Batches, Tuning
from tanuki_async.providers._endpoints import multipart
from tanuki_async.providers.anyscale import Anyscale
from tanuki_async.providers.openai import OpenAI, OpenAICompatible
from tanuki_async.testing import Answer, Fault, LoopbackServer

TypeAdapter(int)  # pydantic looks for its plugins on disk, once; patched functions always come first

KEY = "sk-jobs-secret-0123456789"
LINES = tuple(b'{"messages":[]}' for _ in range(12))
TRAINING = Training(base="gpt-4.1-mini-2025-04-14", tag="tanuki-abc-1", lines=LINES, seed=7)


@pytest.fixture
async def server() -> AsyncIterator[LoopbackServer]:
    async with LoopbackServer(api_key=KEY) as running:
        yield running


@pytest.fixture
def jobs(server: LoopbackServer) -> OpenAIJobs:
    return OpenAIJobs(server)


@pytest.fixture
async def http() -> AsyncIterator[Connections]:
    connections = Connections()
    yield connections
    await connections.aclose()


@pytest.fixture
def provider(server: LoopbackServer) -> OpenAI:
    return OpenAI(KEY, server.url)


@pytest.fixture
def tuning(provider: OpenAI) -> Tuning:
    assert provider.tuning is not None
    return provider.tuning


@pytest.fixture
def batches(provider: OpenAI) -> Batches:
    assert provider.batches is not None
    return provider.batches


def test_a_form_holds_its_fields_and_the_file_byte_for_byte() -> None:
    kind, body = multipart({"purpose": "batch"}, "in.jsonl", b"\r\n--x\r\n")

    boundary = kind.rpartition("=")[2].encode()
    assert body.count(b"--" + boundary) == 3
    assert b'filename="in.jsonl"' in body
    assert b"\r\n\r\n\r\n--x\r\n\r\n--" in body


async def test_a_training_is_uploaded_and_started_with_its_tag(
    tuning: Tuning, jobs: OpenAIJobs, http: Connections, server: LoopbackServer
) -> None:
    job = await tuning.start(TRAINING, http)

    assert job == Job(id="ftjob-1", status="running", told="validating_files", tag="tanuki-abc-1")
    assert jobs.files["file-1"] == ("tanuki-abc-1.jsonl", "fine-tune", b"".join(line + b"\n" for line in LINES))
    sent = next(
        json.loads(each.body) for each in server.requests if each.path.endswith("/jobs") and each.method == "POST"
    )
    assert sent["suffix"] == "tanuki-abc-1"
    assert sent["metadata"] == {"tanuki_tag": "tanuki-abc-1"}
    assert sent["method"] == {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": "auto"}}}
    assert sent["seed"] == 7
    assert "validation_file" not in sent


async def test_starting_again_finds_the_training_that_is_there(
    tuning: Tuning, jobs: OpenAIJobs, http: Connections
) -> None:
    first = await tuning.start(TRAINING, http)
    second = await tuning.start(TRAINING, http)

    assert second.id == first.id
    assert len(jobs.jobs) == len(jobs.files) == 1


async def test_a_creation_whose_answer_is_lost_is_found_again(
    tuning: Tuning, jobs: OpenAIJobs, http: Connections
) -> None:
    jobs.cut = 1

    job = await tuning.start(TRAINING, http)

    assert job.id == "ftjob-1"
    assert len(jobs.jobs) == 1


async def test_a_creation_that_was_sent_twice_over_a_dead_connection_leaves_one(
    tuning: Tuning, jobs: OpenAIJobs, http: Connections
) -> None:
    jobs.cut, jobs.how_cut = 1, Fault.disconnect()

    job = await tuning.start(TRAINING, http)

    assert [each["id"] for each in jobs.alive()] == [job.id] == ["ftjob-1"]


async def test_a_creation_that_did_not_happen_is_an_error_and_may_be_tried_again(
    tuning: Tuning, jobs: OpenAIJobs, http: Connections
) -> None:
    jobs.refusal = Fault.status(500)
    with pytest.raises(ProviderUnavailableError):
        await tuning.start(TRAINING, http)
    jobs.refusal = None

    await tuning.start(TRAINING, http)

    assert len(jobs.jobs) == 1


async def test_of_two_that_raced_the_older_stays(tuning: Tuning, jobs: OpenAIJobs, http: Connections) -> None:
    other = {"model": TRAINING.base, "training_file": "file-0", "metadata": {"tanuki_tag": TRAINING.tag}}

    def somebody_else() -> None:
        jobs.before_create = None
        jobs.add(other)

    jobs.before_create = somebody_else

    job = await tuning.start(TRAINING, http)

    assert job.id == "ftjob-1"
    assert [each["id"] for each in jobs.alive()] == ["ftjob-1"]
    assert jobs.jobs["ftjob-2"]["status"] == "cancelled"
    assert (await tuning.start(TRAINING, http)).id == "ftjob-1"


async def test_two_that_start_at_the_same_moment_end_with_one(
    tuning: Tuning, jobs: OpenAIJobs, http: Connections
) -> None:
    found = await asyncio.gather(*(tuning.start(TRAINING, http) for _ in range(4)))

    assert len(jobs.alive()) == 1
    assert {job.id for job in found} == {jobs.alive()[0]["id"]}


@pytest.mark.parametrize(
    ("told", "status", "model"),
    [
        ("validating_files", "running", None),
        ("queued", "running", None),
        ("running", "running", None),
        ("paused", "running", None),
        ("succeeded", "succeeded", "ft:gpt-4.1-mini-2025-04-14:acme:tanuki-abc:9x8y7z"),
        ("failed", "failed", None),
        ("cancelled", "cancelled", None),
    ],
)
async def test_every_status_is_understood_and_an_unknown_one_is_no_end(
    tuning: Tuning, server: LoopbackServer, http: Connections, told: str, status: str, model: str | None
) -> None:
    body = fixture("openai", "finetune_jobs_by_status")["bodies"][told]
    server.route("GET", "/v1/fine_tuning/jobs/ftjob-Tan1", body)

    job = await tuning.get("ftjob-Tan1", http)

    assert (job.id, job.status, job.told, job.model) == ("ftjob-Tan1", status, told, model)
    assert (job.reason is not None) == (told == "failed")


async def test_trainings_are_listed_and_their_events_told_oldest_first(
    tuning: Tuning, server: LoopbackServer, http: Connections
) -> None:
    server.replay(fixture("openai", "finetune_events"))
    server.route("GET", "/v1/fine_tuning/jobs", fixture("openai", "finetune_list")["body"])

    assert await tuning.events("ftjob-Tan1", http) == [
        "info: Created fine-tuning job: ftjob-Tan1",
        "info: Step 80/80: training loss=0.02",
    ]
    assert [job.told for job in await tuning.jobs(http)] == ["succeeded", "running"]


async def test_lists_are_read_page_by_page(tuning: Tuning, server: LoopbackServer, http: Connections) -> None:
    body = fixture("openai", "finetune_jobs_by_status")["bodies"]["running"]
    pages = {
        "": {"data": [{**body, "id": "a"}, {**body, "id": "b"}], "has_more": True},
        "b": {"data": [{**body, "id": "c", "metadata": {"tanuki_tag": "mine"}}], "has_more": False},
    }
    server.route("GET", "/v1/fine_tuning/jobs", lambda request: pages["b" if "after=b" in request.query else ""])

    found = await tuning.find("mine", http)

    assert found is not None
    assert found.id == "c"


@pytest.mark.parametrize("data", [[None], ["x"], {"a": 1}, "x"])
async def test_a_list_of_anything_but_objects_starts_nothing(
    tuning: Tuning, server: LoopbackServer, http: Connections, data: Any
) -> None:
    server.route("GET", "/v1/fine_tuning/jobs", {"object": "list", "data": data})
    with pytest.raises(ProviderUnavailableError, match="not with a list of objects"):
        await tuning.start(TRAINING, http)
    assert not any(request.method == "POST" for request in server.requests)


async def test_a_closed_account_is_told_by_its_code(tuning: Tuning, jobs: OpenAIJobs, http: Connections) -> None:
    closed = fixture("openai", "error_403_training_not_available")
    jobs.refusal = Reply(status=403, headers=closed["headers"], body=json.dumps(closed["body"]).encode())

    with pytest.raises(RequestRejectedError) as caught:
        await tuning.start(TRAINING, http)

    assert caught.value.code == "training_not_available"
    assert KEY not in str(caught.value)


async def test_another_403_is_about_the_key(tuning: Tuning, jobs: OpenAIJobs, http: Connections) -> None:
    jobs.refusal = Fault.status(403)

    with pytest.raises(AuthenticationError):
        await tuning.start(TRAINING, http)


async def test_a_server_that_keeps_no_metadata_is_searched_by_file_name(
    server: LoopbackServer, http: Connections
) -> None:
    jobs = OpenAIJobs(server, keeps_metadata=False)
    jobs.cut = 1
    provider = OpenAICompatible(server.url, name="copy", api_key=KEY, jobs=True)
    assert provider.tuning is not None
    training = Training(base="llama", tag="tanuki-abc-2", lines=LINES)
    original = jobs.add

    def without_suffix(body: dict[str, Any]) -> dict[str, Any]:
        return original({**body, "suffix": None})

    jobs.add = without_suffix  # type: ignore[method-assign]

    assert (await provider.tuning.start(training, http)).id == "ftjob-1"
    assert (await provider.tuning.start(training, http)).id == "ftjob-1"


async def test_a_copy_with_ids_and_dates_of_its_own_is_understood_and_found_again(
    server: LoopbackServer, http: Connections
) -> None:
    body = fixture("anyscale", "legacy_finetune_job")["body"]
    server.route("GET", f"/v1/fine_tuning/jobs/{body['id']}", body)
    server.route("GET", "/v1/fine_tuning/jobs", {"object": "list", "data": [body]})
    server.route("GET", "/v1/files", {"data": [{"id": body["training_file"], "filename": f"{TRAINING.tag}.jsonl"}]})
    tuning = Anyscale(KEY, server.url, jobs=True).tuning
    assert tuning is not None

    job = Job(id="eftjob_abc", status="succeeded", told="succeeded", tag=None, model=body["fine_tuned_model"])
    assert await tuning.get("eftjob_abc", http) == job
    assert await tuning.start(TRAINING, http) == replace(job, tag=TRAINING.tag)
    assert not any(request.method == "POST" for request in server.requests)


def test_a_checkpoint_of_a_training_is_a_tuned_model() -> None:
    name = fixture("openai", "finetune_checkpoints")["body"]["data"][0]["fine_tuned_model_checkpoint"]
    provider, named = split_name(f"openai:{name}")
    model = OpenAI(KEY).model(named)

    assert (provider, model.name) == ("openai", name)
    assert model.schema_dialect == "openai_strict_ft"
    assert (model.price_input, model.price_cached, model.price_output) == tuned_prices("gpt-4.1-mini-2025-04-14")
    assert model.price_input is not None


async def test_a_copy_is_asked_without_what_it_does_not_know(server: LoopbackServer, http: Connections) -> None:
    jobs = OpenAIJobs(server)
    answers = iter([Fault.status(400, param="metadata"), Fault.status(400, param="method.type")])

    def refuse_twice() -> None:
        jobs.refusal = next(answers, None)

    provider = OpenAICompatible(server.url, name="copy", api_key=KEY, jobs=True)
    assert provider.tuning is not None
    server.route("POST", "/v1/fine_tuning/jobs", lambda request: next(answers, None) or jobs._create(request))

    job = await provider.tuning.start(Training(base="llama", tag="t", lines=LINES), http)

    sent = json.loads(server.requests[-2].body)
    assert job.id == "ftjob-1"
    assert set(sent) == {"model", "training_file", "suffix"}


def test_only_what_openai_still_trains_is_trained_there_and_anything_elsewhere() -> None:
    ours, copy = OpenAI(KEY).tuning, OpenAICompatible("http://h/v1", jobs=True).tuning
    assert ours is not None
    assert copy is not None
    assert [ours.trains(name) for name in ("gpt-4.1-mini-2025-04-14", "gpt-4o-mini", "gpt-6-luna")] == [
        True,
        True,
        False,
    ]
    assert copy.trains("llama")
    assert OpenAICompatible("http://h/v1").tuning is None


def asking(provider: OpenAI, *texts: str) -> dict[str, Request]:
    answer = AnswerSchema(name="f", schema={"type": "object", "properties": {"value": {"type": "string"}}}, strict=True)
    head = Head(function="f", system="Answer.", answer=answer)
    model = provider.model("gpt-6-luna")
    return {f"k{n}": Request(model=model, head=head, turns=(Turn("user", text),)) for n, text in enumerate(texts)}


async def ended(batches: Batches, job: Job, http: Connections) -> Job:
    for _ in range(10):
        if job.status != "running":
            break
        job = await batches.get(job.id, http)
    return job


async def read(batches: Batches, job: Job, http: Connections) -> dict[str, Completion | ProviderError]:
    return {key: result async for key, result in batches.results(job, http)}


async def test_a_batch_answers_each_request_under_its_key(
    provider: OpenAI, batches: Batches, jobs: OpenAIJobs, http: Connections
) -> None:
    answers: dict[str, Any] = {
        "good": {"value": "fine"},
        "refused": Answer(None, refusal="No."),
        "wrong": Fault.status(400, message="too long"),
    }
    jobs.answer = lambda request: answers[request.text]

    job = await batches.submit(asking(provider, "good", "refused", "wrong"), tag="b-1", http=http)
    assert (job.status, job.tag) == ("running", "b-1")
    job = await ended(batches, job, http)
    results = await read(batches, job, http)

    assert (job.status, job.told) == ("succeeded", "completed")
    assert jobs.files["file-1"][:2] == ("b-1.jsonl", "batch")
    good = results["k0"]
    assert isinstance(good, Completion)
    assert good.text == '{"value": "fine"}'
    assert good.usage.input_tokens > 0
    assert isinstance(results["k1"], RefusalError)
    assert isinstance(results["k2"], RequestRejectedError)


async def test_a_batch_is_sent_once(provider: OpenAI, batches: Batches, jobs: OpenAIJobs, http: Connections) -> None:
    jobs.cut = 1
    first = await batches.submit(asking(provider, "a"), tag="b-1", http=http)
    second = await batches.submit(asking(provider, "a"), tag="b-1", http=http)
    other = await batches.submit(asking(provider, "a"), tag="b-2", http=http)

    assert (first.id, second.id, other.id) == ("batch_1", "batch_1", "batch_2")
    assert len(jobs.batches) == 2


async def test_what_an_expired_batch_finished_is_there_and_the_rest_is_missing(
    provider: OpenAI, server: LoopbackServer, batches: Batches, http: Connections
) -> None:
    OpenAIJobs(server, batch=("validating", "expired"), answer=lambda request: {"value": request.text})

    job = await ended(batches, await batches.submit(asking(provider, *"abcd"), tag="b", http=http), http)

    assert (job.status, job.told, job.reason) == ("failed", "expired", "expired")
    assert len(await read(batches, job, http)) == 2


@pytest.mark.parametrize(
    ("told", "status"),
    [
        ("validating", "running"),
        ("in_progress", "running"),
        ("finalizing", "running"),
        ("cancelling", "running"),
        ("completed", "succeeded"),
        ("failed", "failed"),
        ("expired", "failed"),
        ("cancelled", "cancelled"),
    ],
)
async def test_every_status_of_a_batch_is_understood(
    batches: Batches, server: LoopbackServer, http: Connections, told: str, status: str
) -> None:
    server.route("GET", "/v1/batches/batch_Tan1", fixture("openai", "batches_by_status")["bodies"][told])

    job = await batches.get("batch_Tan1", http)

    assert (job.status, job.told) == (status, told)
    assert job.output == {"completed": "file-out1 file-err1", "expired": "file-out1"}.get(told)
    if told == "failed":
        assert job.reason == "This line is not parseable as valid JSON."


async def test_result_files_are_read_as_the_provider_writes_them(
    batches: Batches, server: LoopbackServer, http: Connections
) -> None:
    files = fixture("openai", "batch_files")
    for name, lines in (("out", files["output_lines"]), ("err", files["error_lines"])):
        content = "\n".join(map(json.dumps, lines)).encode()
        server.route("GET", f"/v1/files/{name}/content", Reply(status=200, headers={}, body=content))

    results = await read(batches, Job(id="b", status="succeeded", output="out err"), http)

    assert list(results) == ["a1"]  # the other one expired, so it was not asked
    answer = results["a1"]
    assert isinstance(answer, Completion)
    assert (answer.text, answer.usage.reasoning_tokens, answer.request_id) == ('{"value":"Good"}', 18, "req_b1")


async def test_a_batch_is_cancelled_and_found(
    provider: OpenAI, batches: Batches, jobs: OpenAIJobs, http: Connections
) -> None:
    assert await batches.find("b", http) is None
    job = await batches.submit(asking(provider, "a"), tag="b", http=http)

    assert (await batches.cancel(job.id, http)).status == "cancelled"
    found = await batches.find("b", http)
    assert found is not None
    assert found.status == "cancelled"


async def test_a_batch_has_one_model(provider: OpenAI, batches: Batches, http: Connections) -> None:
    with pytest.raises(UsageError, match="one model"):
        await batches.submit({}, tag="b", http=http)


async def test_what_goes_wrong_is_a_provider_error_without_the_key(
    server: LoopbackServer, tuning: Tuning, http: Connections
) -> None:
    server.route("GET", "/v1/fine_tuning/jobs/x", Reply(status=200, headers={}, body=f"not JSON {KEY}".encode()))
    with pytest.raises(ProviderUnavailableError, match="not with a JSON object") as caught:
        await tuning.get("x", http)
    assert KEY not in str(caught.value)
    server.route("GET", "/v1/fine_tuning/jobs/x", Fault.disconnect())
    with pytest.raises(ProviderUnreachableError, match="openai"):
        await tuning.get("x", http)
