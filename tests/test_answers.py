"""Answers that are shared by concurrent calls, or kept from earlier ones."""

import asyncio
import traceback
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

import pytest
from _spine import at_rest, recorded, tanuki_for
from pydantic import BaseModel

import tanuki_async as tanuki
from tanuki_async import CallTimeoutError, NotOpenError, OutputError, RequestRejectedError, Tanuki
from tanuki_async._errors import own
from tanuki_async.storage.filesystem import FilesystemStorage
from tanuki_async.storage.memory import MemoryStorage
from tanuki_async.testing import Fault, LoopbackServer, Value
from tanuki_async.testing.answers import ChatRequest


def lister(**keywords: Any) -> Any:
    @tanuki.patch(max_repairs=0, **keywords)
    async def words(text: str) -> list[str]:
        """Split into words."""
        ...

    return words


lister()  # pydantic loads the rest of itself for its first type, not in the loop


@tanuki.patch(cache="memory")
async def mood(text: str) -> Literal["good", "bad"] | None:
    """Classify the sentiment."""


class Gate:
    """Answers when a test opens it."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.answer: Any = None

    async def __call__(self, request: ChatRequest) -> Any:
        await self.open.wait()
        return self.answer or Value(request.arguments["text"].split())


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
async def server(gate: Gate) -> AsyncIterator[LoopbackServer]:
    async with LoopbackServer(gate) as running:
        yield running


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
async def opened(server: LoopbackServer, storage: MemoryStorage) -> AsyncIterator[Tanuki]:
    async with tanuki_for(server, storage) as running:
        yield running
        assert at_rest(running)
        assert not any(running._flights.values())


# Single flight


async def test_calls_with_the_same_arguments_share_one_request(
    opened: Tanuki, server: LoopbackServer, gate: Gate, storage: MemoryStorage
) -> None:
    words = lister(single_flight=True)
    calls = [asyncio.create_task(words("a b")) for _ in range(50)]
    await server.wait_requests(1)
    gate.open.set()

    answers = await asyncio.gather(*calls)

    assert answers == [["a", "b"]] * 50
    assert len({id(each) for each in answers}) == 50  # each may change its own
    assert server.served == 1
    found = await tanuki.status(words)
    assert (found.answered_by_teacher, found.cached) == (1, 49)
    assert len(await recorded(storage, words)) == 1


async def test_other_arguments_do_not_share(opened: Tanuki, server: LoopbackServer, gate: Gate) -> None:
    words = lister(single_flight=True)
    gate.open.set()

    assert await asyncio.gather(words("a"), words("b")) == [["a"], ["b"]]
    assert server.served == 2


class Marked(BaseModel):
    text: str
    marks: dict[Literal[1, 2], str] = {1: "a"}  # pydantic writes 1 as "1", and does not read that


async def test_an_answer_that_cannot_be_read_again_is_asked_for_by_each(
    opened: Tanuki, server: LoopbackServer, gate: Gate
) -> None:
    @tanuki.patch(single_flight=True, cache="memory")
    async def marked(text: str) -> Marked:
        """Mark a text."""

    gate.answer = '{"text":"a"}'
    gate.open.set()

    assert await asyncio.gather(marked("a"), marked("a")) == [Marked(text="a")] * 2
    assert await marked("a") == Marked(text="a")
    assert at_rest(opened)


async def test_a_later_call_asks_anew(opened: Tanuki, server: LoopbackServer, gate: Gate) -> None:
    words = lister(single_flight=True)
    gate.open.set()

    await words("a")
    await words("a")

    assert server.served == 2


async def test_the_same_function_defined_twice_shares_too(opened: Tanuki, server: LoopbackServer, gate: Gate) -> None:
    calls = [asyncio.create_task(lister(single_flight=True)("a")) for _ in range(3)]
    await server.wait_requests(1)
    gate.open.set()

    assert await asyncio.gather(*calls) == [["a"]] * 3
    assert server.served == 1


async def test_another_environment_does_not_share(opened: Tanuki, server: LoopbackServer, gate: Gate) -> None:
    gate.open.set()
    await asyncio.gather(*(lister(single_flight=True, environment_id=each)("a") for each in (1, 2)))
    assert server.served == 2


async def test_whoever_is_cancelled_leaves_the_others(opened: Tanuki, server: LoopbackServer, gate: Gate) -> None:
    words = lister(single_flight=True)
    first, second, third = (asyncio.create_task(words("a b")) for _ in range(3))
    await server.wait_requests(1)

    first.cancel()
    second.cancel()
    await asyncio.wait((first, second))
    gate.open.set()

    assert await third == ["a", "b"]
    assert first.cancelled()
    assert second.cancelled()
    assert server.served == 1


async def test_the_request_ends_when_nobody_waits(opened: Tanuki, server: LoopbackServer, gate: Gate) -> None:
    words = lister(single_flight=True)
    calls = [asyncio.create_task(words("a b")) for _ in range(3)]
    await server.wait_requests(1)

    for each in calls:
        each.cancel()
    await asyncio.wait(calls)
    await asyncio.sleep(0.01)

    assert at_rest(opened)
    gate.open.set()
    assert await words("a b") == ["a", "b"]
    assert server.served == 2


async def test_calls_that_are_cancelled_at_once_leave_nothing_behind(
    opened: Tanuki, server: LoopbackServer, gate: Gate
) -> None:
    words = lister(single_flight=True)
    gate.open.set()
    await words("read storage")
    calls = [asyncio.create_task(words("a b")) for _ in range(3)]
    await asyncio.sleep(0)
    for each in calls:
        each.cancel()
    await asyncio.wait(calls)
    await asyncio.sleep(0.01)

    assert at_rest(opened)
    assert not any(opened._flights.values())


async def test_each_keeps_to_its_own_deadline(opened: Tanuki, server: LoopbackServer, gate: Gate) -> None:
    hasty, patient = lister(single_flight=True, timeout=0.05), lister(single_flight=True, timeout=5)
    soon, late = asyncio.create_task(hasty("a b")), asyncio.create_task(patient("a b"))
    await server.wait_requests(1)

    with pytest.raises(CallTimeoutError, match="an answer from loopback"):
        await soon
    gate.open.set()

    assert await late == ["a", "b"]
    assert server.served == 1


async def test_an_error_reaches_all_and_is_not_kept(opened: Tanuki, server: LoopbackServer, gate: Gate) -> None:
    words = lister(single_flight=True, cache="memory")
    gate.answer = Fault.status(400)
    gate.open.set()

    errors = await asyncio.gather(*(words("a") for _ in range(3)), return_exceptions=True)

    assert [type(each) for each in errors] == [RequestRejectedError] * 3
    assert (await tanuki.status(words)).failed == 3
    gate.answer = None
    assert await words("a") == ["a"]


async def test_each_gets_an_error_of_its_own(opened: Tanuki, server: LoopbackServer, gate: Gate) -> None:
    words = lister(single_flight=True)
    gate.answer = Fault.status(400)
    gate.open.set()

    async def noted(number: int) -> BaseException:
        try:
            await words("a")
        except RequestRejectedError as error:
            error.add_note(f"call {number}")
            return error
        raise AssertionError

    errors = await asyncio.gather(*(noted(number) for number in range(3)))

    assert server.served == 1
    assert len({id(each) for each in errors}) == 3
    assert [each.__notes__ for each in errors] == [["call 0"], ["call 1"], ["call 2"]]
    assert len({str(each) for each in errors}) == 1
    lengths = {len(traceback.extract_tb(each.__traceback__)) for each in errors}
    assert len(lengths) == 1  # none has the steps of another


def test_a_copied_error_keeps_its_cause_and_an_odd_one_stays_what_it_is() -> None:
    class OddError(Exception):
        def __init__(self, *, told: str) -> None:
            super().__init__("odd")
            self.told = told

    cause, error, odd = KeyError("x"), RequestRejectedError("no", "p", "m", 400), OddError(told="a")
    error.__cause__, error.code = cause, "c"

    copied = own(error)

    assert copied is not error
    assert (copied.__cause__, copied.code, copied.status, str(copied)) == (cause, "c", 400, str(error))
    assert own(odd) is odd


async def test_closing_tells_all_who_wait(server: LoopbackServer, storage: MemoryStorage, gate: Gate) -> None:
    words = lister(single_flight=True)
    async with tanuki_for(server, storage):
        calls = [asyncio.create_task(words("a")) for _ in range(3)]
        await server.wait_requests(1)

    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(each) for each in results] == [NotOpenError] * 3


# Cache


async def test_an_answer_is_kept(opened: Tanuki, server: LoopbackServer, gate: Gate, storage: MemoryStorage) -> None:
    words = lister(cache="memory")
    gate.open.set()

    first = await words("a b")
    first.append("changed by the caller")

    assert await words("a b") == ["a", "b"]
    assert await words("c") == ["c"]
    assert server.served == 2
    found = await tanuki.status(words)
    assert (found.answered_by_teacher, found.cached) == (2, 1)
    assert len(await recorded(storage, words)) == 2


async def test_none_is_an_answer_like_any_other(opened: Tanuki, server: LoopbackServer, gate: Gate) -> None:
    gate.answer = '{"value":null}'
    gate.open.set()
    assert await mood("x") is None
    assert await mood("x") is None
    assert server.served == 1


async def test_what_never_fits_is_not_kept(opened: Tanuki, server: LoopbackServer, gate: Gate) -> None:
    words = lister(cache="memory")
    gate.answer = "17"
    gate.open.set()
    for _ in range(2):
        with pytest.raises(OutputError):
            await words("a")
    assert server.served == 2


async def test_an_aligned_example_takes_the_place_of_an_answer(
    opened: Tanuki, server: LoopbackServer, gate: Gate
) -> None:
    words = lister(cache="memory")
    gate.open.set()
    assert await words("a b") == ["a", "b"]

    await tanuki.feedback(words, ["a-b"], "a b")

    assert await words("a b") == ["a-b"]
    assert server.served == 1


async def test_the_memory_is_bounded(opened: Tanuki, server: LoopbackServer, gate: Gate) -> None:
    words = lister(cache="memory")
    gate.open.set()
    await words("first")
    (kept,) = opened._answers.values()
    kept.most = 2
    await words("second")
    await words("first")  # asked for again, so it stays
    await words("third")

    assert len(kept) == 2
    assert server.served == 3
    await words("first")
    assert server.served == 3
    await words("second")
    assert server.served == 4


async def test_storage_brings_answers_over_a_restart(server: LoopbackServer, gate: Gate, tmp_path: Path) -> None:
    words = lister(cache="storage")
    gate.open.set()
    async with tanuki_for(server, FilesystemStorage(tmp_path)):
        await words("a b")
        await words("a b")
        await words("c")
        await tanuki.feedback(words, ["see"], "c")
    files = len(list(tmp_path.rglob("*")))  # noqa: ASYNC240

    async with tanuki_for(server, FilesystemStorage(tmp_path)):
        assert await words("a b") == ["a", "b"]
        assert await words("c") == ["see"]

    assert server.served == 2
    assert len(list(tmp_path.rglob("*"))) <= files + 1  # noqa: ASYNC240  # no file per answer


async def test_answers_of_another_teacher_are_not_used(server: LoopbackServer, gate: Gate) -> None:
    storage = MemoryStorage()
    gate.open.set()
    async with tanuki_for(server, storage):
        await lister()("a")
    async with tanuki_for(server, storage, teacher_models="loopback:large"):
        await lister(cache="storage")("a")
    assert server.served == 2


async def test_memory_does_not_read_what_was_recorded(server: LoopbackServer, gate: Gate) -> None:
    storage = MemoryStorage()
    gate.open.set()
    for _ in range(2):
        async with tanuki_for(server, storage):
            await lister(cache="memory")("a")
    assert server.served == 2


async def test_both_work_together(opened: Tanuki, server: LoopbackServer, gate: Gate) -> None:
    words = lister(cache="memory", single_flight=True)
    calls = [asyncio.create_task(words("a")) for _ in range(3)]
    await server.wait_requests(1)
    gate.open.set()
    await asyncio.gather(*calls)
    await words("a")
    assert server.served == 1
    assert (await tanuki.status(words)).cached == 3


@pytest.mark.parametrize(
    ("keywords", "hint"),
    [
        ({"cache": True}, "'memory', 'storage' or None"),
        ({"cache": "disk"}, "'memory', 'storage' or None"),
        ({"cache": "storage", "ignore_data_storage": True}, "use 'memory'"),
        ({"single_flight": 1}, "True or False"),
    ],
)
def test_what_cannot_work_is_refused_at_decoration(keywords: dict[str, Any], hint: str) -> None:
    with pytest.raises(tanuki.SettingsError, match=hint):
        lister(**keywords)
