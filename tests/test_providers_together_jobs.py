"""Trainings and batches at Together AI: uploads in three steps, defaults filled in, and nothing started by the minute."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
from _jobs import fixture
from _together import TogetherJobs
from pydantic import TypeAdapter

from tanuki_async._errors import ProviderUnavailableError, RequestRejectedError
from tanuki_async._pool.http import Connections
from tanuki_async._records import AnswerSchema, Completion, Head, Job, Request, Training, Turn
from tanuki_async.providers.together import TogetherAI
from tanuki_async.testing import Fault, LoopbackServer

TypeAdapter(int)  # pydantic looks for its plugins on disk, once; patched functions always come first

KEY = "tg-jobs-secret-0123456789"
LINES = tuple(b'{"messages":[]}' for _ in range(12))
TRAINING = Training(base="Qwen/Qwen3.5-9B", tag="tanuki-abc", lines=LINES, seed=7)


@pytest.fixture
async def server() -> AsyncIterator[LoopbackServer]:
    async with LoopbackServer() as running:
        yield running


@pytest.fixture
async def http() -> AsyncIterator[Connections]:
    connections = Connections()
    yield connections
    await connections.aclose()


@pytest.fixture
def provider(server: LoopbackServer) -> TogetherAI:
    return TogetherAI(KEY, server.url)


async def start(provider: TogetherAI, http: Connections, training: Training = TRAINING) -> Job:
    assert provider.tuning is not None
    return await provider.tuning.start(training, http)


async def get(provider: TogetherAI, job: str, http: Connections) -> Job:
    assert provider.tuning is not None
    return await provider.tuning.get(job, http)


@pytest.mark.parametrize("plain", [False, True])
async def test_a_file_is_uploaded_and_a_training_started_with_everything_spelt_out(
    provider: TogetherAI, server: LoopbackServer, http: Connections, plain: bool
) -> None:
    jobs = TogetherJobs(server, plain=plain)

    job = await start(provider, http)

    assert job == Job(id="ft-1", status="running", told="pending", tag="tanuki-abc")
    assert jobs.files["file-1"] == ("tanuki-abc.jsonl", "fine-tune", b"".join(line + b"\n" for line in LINES))
    assert jobs.preprocessed == ([] if plain else ["file-1"])
    assert all("authorization" not in headers for headers in jobs.store_headers)
    sent = next(json.loads(each.body) for each in server.requests if each.path == "/v1/fine-tunes" and each.body)
    assert sent["training_type"] == {"type": "Lora", "lora_r": 64, "lora_alpha": 128}
    assert sent["training_method"] == {"method": "sft", "train_on_inputs": False}
    assert (sent["suffix"], sent["random_seed"], sent["n_epochs"]) == ("tanuki-abc", 7, 3)
    recorded = fixture("together", "finetune_create")["request"]["json"]
    assert {name for name in sent if name not in recorded} == {"random_seed"}
    same = ("model", "n_epochs", "n_checkpoints", "batch_size", "learning_rate", "suffix")
    assert {name: sent[name] for name in same} == {name: recorded[name] for name in same}


async def test_the_same_file_is_stored_once(provider: TogetherAI, server: LoopbackServer, http: Connections) -> None:
    jobs = TogetherJobs(server)
    await start(provider, http)
    await start(provider, http, Training(base="Qwen/Qwen3.5-9B", tag="tanuki-other", lines=LINES))

    assert len(jobs.files) == 1
    assert [job["training_file"] for job in jobs.jobs.values()] == ["file-1", "file-1"]


async def test_there_is_one_training_per_tag_also_when_an_answer_is_lost(
    provider: TogetherAI, server: LoopbackServer, http: Connections
) -> None:
    jobs = TogetherJobs(server)
    jobs.cut = 1

    found = [(await start(provider, http)).id for _ in range(2)]

    assert found == ["ft-1", "ft-1"]
    assert jobs.alive() == ["ft-1"]


async def test_a_file_that_the_provider_refuses_starts_nothing(
    provider: TogetherAI, server: LoopbackServer, http: Connections
) -> None:
    jobs = TogetherJobs(server)
    jobs.processing = "INVALID_FORMAT"

    with pytest.raises(RequestRejectedError, match="INVALID_FORMAT"):
        await start(provider, http)

    assert jobs.jobs == {}


async def test_a_store_that_fails_is_told_without_its_address(
    provider: TogetherAI, server: LoopbackServer, http: Connections
) -> None:
    TogetherJobs(server)
    server.route("PUT", "/v1/store/file-1", Fault.status(500))
    original = server.route
    server.route = lambda *args: None if args[0] == "PUT" else original(*args)  # type: ignore[method-assign, func-returns-value]

    with pytest.raises(ProviderUnavailableError, match="could not be stored") as caught:
        await start(provider, http)

    assert "store/" not in str(caught.value)


@pytest.mark.parametrize(
    ("told", "status"),
    [
        ("pending", "running"),
        ("queued", "running"),
        ("running", "running"),
        ("compressing", "running"),
        ("uploading", "running"),
        ("cancel_requested", "running"),
        ("resting", "running"),
        ("cancelled", "cancelled"),
        ("error", "failed"),
        ("user_error", "failed"),
        ("completed", "succeeded"),
    ],
)
async def test_every_status_is_understood_and_an_unknown_one_is_no_end(
    provider: TogetherAI, server: LoopbackServer, http: Connections, told: str, status: str
) -> None:
    bodies = fixture("together", "finetune_jobs_by_status")["bodies"]
    server.route("GET", "/v1/fine-tunes/x", {**bodies.get(told, bodies["error"]), "status": told})
    server.route("GET", "/v1/models", lambda _: [])

    job = await get(provider, "x", http)

    assert (job.status, job.told, job.model, job.tag) == (status, told, None, "tanuki-abc")
    assert (job.reason is not None) == (status in ("failed", "succeeded"))
    if status == "failed":
        assert job.reason == "Training failed"


async def test_what_needs_an_endpoint_by_the_minute_is_not_served_but_the_way_there_is_told(
    provider: TogetherAI, server: LoopbackServer, http: Connections
) -> None:
    jobs = TogetherJobs(server, training=("pending", "completed"))
    job = await get(provider, (await start(provider, http)).id, http)

    assert (job.status, job.model) == ("succeeded", None)
    assert job.reason is not None
    for told in ("billed by the minute", "none is started", "POST /v2/projects/acme/endpoints", "models/ml_abc"):
        assert told in job.reason
    assert not [each for each in server.requests if "endpoints" in each.path]
    assert jobs.alive() == ["ft-1"]


async def test_what_answers_already_is_served(provider: TogetherAI, server: LoopbackServer, http: Connections) -> None:
    jobs = TogetherJobs(server, training=("pending", "completed"))
    started = await start(provider, http)
    name = jobs.jobs["ft-1"]["model_output_name"]
    server.route("GET", "/v1/models", lambda _: [{"id": name}])

    job = await get(provider, started.id, http)

    assert (job.model, job.reason) == (name, None)


async def test_trainings_and_their_events_are_listed(
    provider: TogetherAI, server: LoopbackServer, http: Connections
) -> None:
    TogetherJobs(server)
    assert provider.tuning is not None
    await start(provider, http)
    await start(provider, http, Training(base="Qwen/Qwen3.5-9B", tag="tanuki-other", lines=LINES))

    assert [job.tag for job in await provider.tuning.jobs(http)] == ["tanuki-other", "tanuki-abc"]
    assert await provider.tuning.events("ft-1", http) == ["info: Fine tune request created", "info: Job finished"]
    assert (await provider.tuning.cancel("ft-1", http)).told == "cancel_requested"
    assert await provider.tuning.find("tanuki-none", http) is None


def test_what_it_trains_is_known_by_family_and_does_not_serve_by_itself(provider: TogetherAI) -> None:
    assert provider.tuning is not None
    assert provider.tuning.trains("Qwen/Qwen3.5-9B")
    assert not provider.tuning.trains("acme/my-endpoint")
    assert not provider.tuning.serves


async def test_a_batch_is_sent_once_and_answers_under_its_keys(
    provider: TogetherAI, server: LoopbackServer, http: Connections
) -> None:
    jobs = TogetherJobs(server, answer=lambda request: {"value": request.text.upper()})
    head = Head(function="f", system="s", answer=AnswerSchema(name="f", schema={"type": "object"}, strict=False))
    model = provider.model("Qwen/Qwen3.5-9B")
    requests = {f"k{text}": Request(model=model, head=head, turns=(Turn("user", text),)) for text in "ab"}
    batches = provider.batches
    assert batches is not None

    first = await batches.submit(requests, tag="tanuki-b", http=http)
    again = await batches.submit(requests, tag="tanuki-b", http=http)
    assert (first.id, again.id, len(jobs.batches)) == ("b1", "b1", 1)
    told = []
    while (job := await batches.get("b1", http)).status == "running":
        told.append(job.told)
    results = {key: result async for key, result in batches.results(job, http)}

    assert (told, job.told) == (["IN_PROGRESS"], "COMPLETED")
    assert jobs.batches["b1"]["model_id"] == "Qwen/Qwen3.5-9B"
    assert {key: result.text for key, result in results.items() if isinstance(result, Completion)} == {
        "ka": '{"value": "A"}',
        "kb": '{"value": "B"}',
    }


@pytest.mark.parametrize(
    "told", ["VALIDATING", "IN_PROGRESS", "COMPLETED", "FAILED", "EXPIRED", "CANCELLED", "NAPPING"]
)
async def test_every_status_of_a_batch_is_understood(
    provider: TogetherAI, server: LoopbackServer, http: Connections, told: str
) -> None:
    bodies = fixture("together", "batches")["retrieve_by_status"]
    server.route("GET", "/v1/batches/b1", {**bodies.get(told, bodies["VALIDATING"]), "status": told})
    assert provider.batches is not None

    job = await provider.batches.get("b1", http)

    wanted = {"COMPLETED": "succeeded", "FAILED": "failed", "EXPIRED": "failed", "CANCELLED": "cancelled"}
    assert job.status == wanted.get(told, "running")
