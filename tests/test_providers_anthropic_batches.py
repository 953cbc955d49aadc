"""Message Batches: sent, found again, read line by line, whatever fails on the way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from tanuki_async._errors import (
    ProviderError,
    ProviderUnavailableError,
    ProviderUnreachableError,
    RateLimitedError,
    RefusalError,
    RequestRejectedError,
)
from tanuki_async._pool.http import Connections
from tanuki_async._records import AnswerSchema, Completion, Head, Job, Reply, Request, Turn
from tanuki_async.abc import Batches
from tanuki_async.providers._message_batches import LOOKED_INTO, mark_of
from tanuki_async.providers.anthropic import Anthropic
from tanuki_async.testing import Fault, LoopbackServer
from tanuki_async.testing._http import HttpRequest
from tanuki_async.testing._strict_anthropic import check_message

TypeAdapter(int)  # pydantic looks for its plugins on disk, once; patched functions always come first

KEY = "sk-ant-very-secret-0123456789"
FIXTURE = json.loads((Path(__file__).parent / "fixtures/anthropic/message_batches.json").read_text())
PATH = "/v1/messages/batches"
SCHEMA: dict[str, Any] = FIXTURE["create_request"]["json"]["requests"][0]["params"]["output_config"]["format"]["schema"]
HEAD = Head(
    function="classify",
    system="Classify the sentiment.",
    answer=AnswerSchema(name="classify", schema=SCHEMA, strict=True),
)


def question(text: str = "I love you") -> Request:
    return Request(model=Anthropic().model("claude-haiku-5-5"), head=HEAD, turns=(Turn("user", text),), max_tokens=1024)


class Service:
    """Batches as Anthropic keeps them, the latest first, in pages of two."""

    def __init__(self) -> None:
        self.batches: list[dict[str, Any]] = []
        self.sent: dict[str, list[dict[str, Any]]] = {}
        self.created = 0
        self.lost: Fault | None = None
        self.refusal: Fault | None = None
        self.server = LoopbackServer(api_key=KEY)
        self.server.route("POST", PATH, self._create)
        self.server.route("GET", PATH, self._list)

    def _create(self, request: HttpRequest) -> object:
        if self.refusal:
            return self.refusal
        asked = json.loads(request.body)["requests"]
        for each in asked:
            check_message(each["params"], request.headers)
            assert 0 < len(each["custom_id"]) <= 64
        self.created += 1
        told = self.add(f"msgbatch_{self.created:02}", len(asked))
        self.sent[told["id"]] = asked
        return self.lost or told

    def add(self, name: str, count: int) -> dict[str, Any]:
        counts = {"processing": count, "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0}
        told = {**FIXTURE["bodies"]["in_progress"], "id": name, "request_counts": counts}
        self.batches.insert(0, told)
        self.server.route("GET", f"{PATH}/{name}", lambda _: told)
        return told

    def end(self, name: str, custom_ids: list[str] | None = None) -> None:
        told = next(each for each in self.batches if each["id"] == name)
        told |= {**FIXTURE["bodies"]["ended"], "id": name, "request_counts": told["request_counts"]}
        ids = custom_ids or [each["custom_id"] for each in self.sent[name]]
        results = [{**FIXTURE["result_lines"][0], "custom_id": each} for each in ids]
        self.results(name, "\n".join(map(json.dumps, results)).encode())

    def results(self, name: str, body: bytes) -> None:
        headers = {"content-type": "application/x-jsonl"}
        self.server.route("GET", f"{PATH}/{name}/results", lambda _: Reply(status=200, headers=headers, body=body))

    def _list(self, request: HttpRequest) -> object:
        options = dict(pair.split("=") for pair in request.query.split("&"))
        ids = [each["id"] for each in self.batches]
        start = ids.index(options["after_id"]) + 1 if "after_id" in options else 0
        page = self.batches[start : start + 2]
        last = page[-1]["id"] if page else None
        return {"data": page, "has_more": start + 2 < len(ids), "last_id": last}

    def provider(self) -> Anthropic:
        return Anthropic(KEY, self.server.url)


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    service = Service()
    async with service.server:
        yield service


@pytest.fixture
async def http() -> AsyncIterator[Connections]:
    http = Connections()
    yield http
    await http.aclose()


TWO = {"a1": question(), "a2": question("I hate you")}


async def test_requests_are_sent_inline_as_recorded_but_for_the_mark_and_the_cache(
    service: Service, http: Connections
) -> None:
    job = await service.provider().batches.submit({"a1": question()}, tag="run-1", http=http)
    assert job == Job(id="msgbatch_01", status="running", told="in_progress", tag="run-1")
    (recorded,) = FIXTURE["create_request"]["json"]["requests"]
    (asked,) = service.sent["msgbatch_01"]
    assert asked["custom_id"] == mark_of("run-1") + "a1"
    system = [{"type": "text", "text": "Classify the sentiment.", "cache_control": {"type": "ephemeral"}}]
    assert asked["params"] == recorded["params"] | {"system": system}


@pytest.mark.parametrize(
    ("name", "status"), [("in_progress", "running"), ("canceling", "running"), ("ended", "succeeded")]
)
async def test_each_recorded_state_is_read(http: Connections, name: str, status: str) -> None:
    async with LoopbackServer() as server:
        server.route("GET", f"{PATH}/msgbatch_01", FIXTURE["bodies"][name])
        job = await Anthropic(KEY, server.url).batches.get("msgbatch_01", http)
    assert (job.id, job.status, job.told, job.output) == (
        "msgbatch_01", status, name, FIXTURE["bodies"][name]["results_url"],
    )  # fmt: skip


async def test_a_batch_that_was_cancelled_is_so_once_it_has_ended(http: Connections) -> None:
    async with LoopbackServer() as server:
        server.route("POST", f"{PATH}/msgbatch_01/cancel", FIXTURE["bodies"]["canceling"])
        ended = FIXTURE["bodies"]["ended"] | {"cancel_initiated_at": "2026-11-22T10:10:00Z"}
        server.route("GET", f"{PATH}/msgbatch_01", ended)
        batches = Anthropic(KEY, server.url).batches
        assert (await batches.cancel("msgbatch_01", http)).status == "running"
        assert (await batches.get("msgbatch_01", http)).status == "cancelled"


async def test_recorded_results_are_read_and_what_was_not_asked_is_left_out(http: Connections) -> None:
    lines = "\n".join(map(json.dumps, FIXTURE["result_lines"])) + "\n"
    async with LoopbackServer(api_key=KEY) as server:
        server.route("GET", f"{PATH}/b/results", Reply(status=200, headers={}, body=lines.encode()))
        job = Job(id="b", status="succeeded", output="https://elsewhere.invalid/takes-the-key")
        found = dict([each async for each in Anthropic(KEY, server.url).batches.results(job, http)])
    assert list(found) == ["a1", "a2"]
    answer, error = found["a1"], found["a2"]
    assert isinstance(answer, Completion)
    assert (answer.text, answer.usage.input_tokens) == ('{"value":"Good"}', 36)
    assert isinstance(error, RequestRejectedError)
    assert (error.message, error.request_id) == ("max_tokens: Field required", "req_011CT")


async def test_results_of_all_kinds_are_yielded_not_raised(service: Service, http: Connections) -> None:
    def line(number: int, result: Any) -> bytes:
        return json.dumps({"custom_id": f"{mark_of('t')}k{number}", "result": result}).encode()

    refusal = {"content": [], "stop_reason": "refusal"}
    overloaded = {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}
    results = [
        {"type": "succeeded", "message": refusal},
        {"type": "succeeded", "message": None},
        {"type": "errored", "error": overloaded},
        {"type": "errored"},
    ]
    service.results("b", b"\n\n".join(line(*each) for each in enumerate(results)))
    job = Job(id="b", status="succeeded", tag="t")
    found = [each async for each in service.provider().batches.results(job, http)]
    assert [key for key, _ in found] == ["k0", "k1", "k2", "k3"]
    kinds = [RefusalError, ProviderUnavailableError, ProviderUnavailableError, ProviderUnavailableError]
    assert [type(outcome) for _, outcome in found] == kinds


async def test_keys_come_back_whatever_their_length(service: Service, http: Connections) -> None:
    batches = service.provider().batches
    for keys in (["a", "b" * 53], ["c" * 54, "d" * 64]):
        job = await batches.submit(dict.fromkeys(keys, question()), tag=keys[0], http=http)
        service.end(job.id)
        assert [key async for key, _ in batches.results(job, http)] == keys
        assert (await batches.find(keys[0], http) or job).id == job.id


async def test_the_same_tag_is_sent_once(service: Service, http: Connections) -> None:
    batches = service.provider().batches
    first = await batches.submit(TWO, tag="run-1", http=http)
    again = await batches.submit(TWO, tag="run-1", http=http)
    other = await batches.submit(TWO, tag="run-2", http=http)
    assert (first, service.created) == (again, 2)
    assert other.id != first.id
    assert await batches.find("run-3", http) is None


async def test_another_process_finds_it_once_it_has_ended(service: Service, http: Connections) -> None:
    job = await service.provider().batches.submit(TWO, tag="run-1", http=http)
    elsewhere = service.provider().batches
    assert await elsewhere.find("run-1", http) is None  # it shows nothing by which to know it
    service.end(job.id)
    for number in range(5):  # on another page
        service.add(f"later_{number}", 2)
    found = await elsewhere.find("run-1", http)
    assert found is not None
    assert (found.id, found.status, found.tag) == (job.id, "succeeded", "run-1")
    assert (await elsewhere.submit(TWO, tag="run-1", http=http)).id == job.id
    assert service.created == 1


async def test_what_was_looked_into_once_is_not_again(service: Service, http: Connections) -> None:
    service.add("theirs", 2)
    service.end("theirs", ["x", "y"])
    batches = service.provider().batches
    for _ in range(2):
        assert await batches.find("run-1", http) is None
    looked = [asked for asked in service.server.requests if isinstance(asked, HttpRequest) and "results" in asked.path]
    assert len(looked) == 1


async def lose(service: Service, http: Connections, batches: Batches, fault: Fault) -> None:
    """Send a batch that arrives, but whose answer does not."""
    service.lost = fault
    with pytest.raises((TimeoutError, ProviderUnreachableError, ProviderUnavailableError)):
        async with asyncio.timeout(0.05):
            await batches.submit(TWO, tag="run-1", http=http)
    service.lost = None


@pytest.mark.parametrize("fault", [Fault.hang(), Fault.cut_midway(), Fault.status(504)], ids=["hangs", "cut", "504"])
async def test_after_a_timeout_at_creation_the_batch_is_found_not_sent_again(
    service: Service, http: Connections, fault: Fault
) -> None:
    service.add("of_somebody_else_as_large", 2)
    batches = service.provider().batches
    await lose(service, http, batches, fault)
    service.add("of_somebody_else_larger", 3)
    found = await batches.find("run-1", http)
    assert found is not None
    assert (found.id, found.status) == ("msgbatch_01", "running")
    assert (await batches.submit(TWO, tag="run-1", http=http)).id == "msgbatch_01"
    assert service.created == 1


async def test_a_batch_taken_for_ours_is_given_back_when_its_results_say_otherwise(
    service: Service, http: Connections
) -> None:
    batches = service.provider().batches
    await lose(service, http, batches, Fault.status(504))
    theirs, ours = "msgbatch_00", "msgbatch_01"
    service.add(theirs, 2)
    service.batches.reverse()  # theirs is as large, came since, and is older
    wrong = await batches.find("run-1", http)
    assert wrong is not None
    assert wrong.id == theirs
    service.end(theirs, [mark_of("run-2") + "a1"])
    service.end(ours)
    with pytest.raises(RequestRejectedError, match="not the batch 'run-1'"):
        await anext(batches.results(wrong, http))
    found = await batches.find("run-1", http)
    assert found is not None
    assert [key async for key, _ in batches.results(found, http)] == ["a1", "a2"]


@pytest.mark.parametrize("fault", [Fault.status(429, retry_after=3), Fault.status(400)])
async def test_what_was_refused_was_not_sent(service: Service, http: Connections, fault: Fault) -> None:
    batches = service.provider().batches
    service.refusal = fault
    with pytest.raises((RateLimitedError, RequestRejectedError)):
        await batches.submit(TWO, tag="run-1", http=http)
    service.refusal = None
    service.add("of somebody else", 2)
    assert await batches.find("run-1", http) is None


async def test_find_gives_up_after_so_many(service: Service, http: Connections) -> None:
    service.add("old", 1)
    service.end("old", [mark_of("run-1") + "a"])
    for number in range(LOOKED_INTO):
        service.add(f"b{number}", 1)
    assert await service.provider().batches.find("run-1", http) is None


async def test_results_that_are_gone_do_not_stop_a_search(service: Service, http: Connections) -> None:
    service.add("gone", 1)
    service.end("gone", ["x"])
    service.server.route("GET", f"{PATH}/gone/results", Fault.status(404))
    assert await service.provider().batches.find("run-1", http) is None


@pytest.mark.parametrize(
    "requests", [{}, dict.fromkeys(map(str, range(100_001)), question())], ids=["none", "too many"]
)
async def test_a_batch_of_none_or_too_many_is_refused_before_it_is_sent(
    service: Service, http: Connections, requests: dict[str, Request]
) -> None:
    with pytest.raises(RequestRejectedError, match="1 to 100,000"):
        await service.provider().batches.submit(requests, tag="t", http=http)
    assert service.server.served == 0


@pytest.mark.parametrize(
    "answer",
    [Fault.status(500), Fault.disconnect(), Fault.cut_midway(), Reply(status=200, headers={}, body=b"{not json\n")],
)
async def test_failures_while_results_are_read_are_raised_and_leave_nothing_open(
    service: Service, http: Connections, answer: object
) -> None:
    service.server.route("GET", f"{PATH}/b/results", answer)
    with pytest.raises(ProviderError) as caught:
        async for _ in service.provider().batches.results(Job(id="b", status="succeeded"), http):
            pass
    assert caught.value.provider == "anthropic"
    assert KEY not in str(caught.value)
    assert http.statistics().in_flight == 0
