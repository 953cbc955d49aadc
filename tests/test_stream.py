"""Functions that stream, over real HTTP: items while the answer is still written, every way it can go wrong, the rest."""

import asyncio
import json
import random
import typing
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable
from typing import Annotated, Any

import httpx
import pytest
from _spine import at_rest, last_user_turn, recorded, tanuki_for

import tanuki_async as tanuki
from tanuki_async import (
    AlignmentError,
    Budget,
    BudgetExceededError,
    CallTimeoutError,
    Limits,
    NotOpenError,
    OutputError,
    ProviderUnavailableError,
    ProviderUnreachableError,
    RefusalError,
    SettingsError,
    StubError,
    Tanuki,
    UsageError,
)
from tanuki_async._exam import Exam
from tanuki_async.providers.openai import OpenAICompatible
from tanuki_async.storage.memory import MemoryStorage
from tanuki_async.testing import Answer, FakeClock, FakeProvider, Fault, LoopbackServer


@tanuki.patch
async def names(text: str) -> AsyncIterator[str]:
    """List the names."""


@tanuki.patch(timeout=0.15)
async def hasty(text: str) -> AsyncIterator[str]:
    """List the names."""


@tanuki.patch(max_repairs=0)
async def numbers(text: str) -> AsyncIterator[int]:
    """List the numbers."""


@pytest.fixture
async def server() -> AsyncIterator[LoopbackServer]:
    async with LoopbackServer([], strict=True) as running:
        yield running


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
async def opened(server: LoopbackServer, storage: MemoryStorage) -> AsyncIterator[Tanuki]:
    async with tanuki_for(server, storage) as running:
        yield running
        assert at_rest(running)


def saying(*pieces: object) -> Any:
    """An answerer that sends these pieces, waiting for each event among them."""

    async def answer(_: object) -> AsyncIterator[object]:
        for piece in pieces:
            if isinstance(piece, asyncio.Event):
                await piece.wait()
            else:
                yield piece

    return answer


async def test_an_item_is_there_before_the_next_is_written(
    opened: Tanuki, server: LoopbackServer, storage: MemoryStorage
) -> None:
    first, second = asyncio.Event(), asyncio.Event()
    server.put(saying('{"value":["An', 'na"', first, ', "Be\\"n"', second, "]}"))
    found: list[str] = []
    async for name in await names("Anna and Ben"):
        found.append(name)
        (second if first.is_set() else first).set()

    assert found == ["Anna", 'Be"n']
    assert server.requests[0].body["stream"] is True
    assert server.requests[0].body["stream_options"] == {"include_usage": True}
    (record,) = await recorded(storage, names)
    assert (record["args"], record["output"], record["repaired"]) == (["Anna and Ben"], ["Anna", 'Be"n'], False)
    assert opened.statistics().pool.accounts[0].usage.output_tokens > 0


async def test_leaving_the_loop_ends_the_request(
    opened: Tanuki, server: LoopbackServer, storage: MemoryStorage
) -> None:
    server.put(saying('{"value":["Anna","B', asyncio.Event()))
    async for name in await names("x"):
        assert name == "Anna"
        assert opened.statistics().pool.in_flight == 1
        break
    await until(lambda: at_rest(opened) and server.in_flight == 0 and server.connections == 0)
    assert await recorded(storage, names) == []


async def test_nothing_is_sent_before_the_first_item_is_asked_for(opened: Tanuki, server: LoopbackServer) -> None:
    await names("x")
    await asyncio.sleep(0.01)
    assert server.served == 0


async def test_cancelling_ends_the_request(opened: Tanuki, server: LoopbackServer) -> None:
    server.put(saying('{"value":["Anna"', asyncio.Event()))
    items = await names("x")
    assert await anext(items) == "Anna"
    waiting = asyncio.ensure_future(anext(items))
    await asyncio.sleep(0.01)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await until(lambda: at_rest(opened) and server.connections == 0)


async def test_what_does_not_fit_is_repaired_after_the_last_good_item(
    opened: Tanuki, server: LoopbackServer, storage: MemoryStorage
) -> None:
    server.put('{"value":["Anna", 7, "Cleo"]}', '{"value":["Ben","Cleo"]}')
    assert [name async for name in await names("x")] == ["Anna", "Ben", "Cleo"]
    roles = [(m["role"], m["content"]) for m in server.requests[1].body["messages"]]
    assert roles[1:3] == [("user", '{"text":"x"}'), ("assistant", '{"value":["Anna"]}')]
    assert "value[1]" in last_user_turn(server, 1)
    (record,) = await recorded(storage, names)
    assert (record["output"], record["repaired"]) == (["Anna", "Ben", "Cleo"], True)


async def test_a_server_without_schemas_may_say_something_around_the_list(
    opened: Tanuki, server: LoopbackServer
) -> None:
    server.put('Of course [1]:\n```json\n{"value": ["Anna"]}\n```\n', "Anna and Ben, I think: ['Anna', 'Ben']")
    assert await listed(names("x")) == ["Anna"]
    assert await listed(names("y")) == ["Anna", "Ben"]  # only found in the end
    assert server.served == 2


async def test_an_empty_list_is_an_answer(opened: Tanuki, server: LoopbackServer, storage: MemoryStorage) -> None:
    server.put([])
    assert await listed(names("x")) == []
    (record,) = await recorded(storage, names)
    assert record["output"] == []


# Repairs


async def test_the_rest_is_asked_for_at_most_max_repairs_times(
    opened: Tanuki, server: LoopbackServer, storage: MemoryStorage
) -> None:
    server.put('{"value":["Anna", 7', '{"value":["Ben", 8]}', "no idea")
    found: list[str] = []
    with pytest.raises(OutputError) as caught:
        await collect(names("x"), found)
    assert found == ["Anna", "Ben"]
    assert [attempt[:20] for attempt in caught.value.attempts] == [
        '{"value":["Anna", 7',
        '{"value":["Ben", 8]}',
        "no idea",
    ]
    assert len(caught.value.complaints) == 3
    assert "first 2 items" in last_user_turn(server, 2)
    assert await recorded(storage, names) == []
    assert opened.statistics().pool.accounts[0].requests == 3


async def test_what_never_gave_an_item_is_repaired_like_any_answer(opened: Tanuki, server: LoopbackServer) -> None:
    server.put('{"value":[7]}', '{"value":["Anna"]}')
    assert await listed(names("x")) == ["Anna"]
    roles = [(m["role"], m["content"]) for m in server.requests[1].body["messages"]]
    assert roles[2] == ("assistant", '{"value":[7]')  # as far as it was read
    assert "does not fit" in roles[3][1]


async def test_without_repairs_the_first_misfit_ends_it(opened: Tanuki, server: LoopbackServer) -> None:
    server.put('{"value":[1, "two"]}')
    items = await numbers("x")
    assert await anext(items) == 1
    with pytest.raises(OutputError, match="none of 1 answers"):
        await anext(items)


async def test_an_answer_cut_off_by_its_limit_goes_on_with_more_room(opened: Tanuki, server: LoopbackServer) -> None:
    server.put(Answer('{"value":[1,2,3', finish_reason="length"), [3, 4])
    assert await listed(numbers("x")) == [1, 2, 3, 4]
    assert "max_tokens" not in server.requests[0].body
    assert server.requests[1].body["max_tokens"] > 0


# What breaks off


@pytest.mark.parametrize("fault", [Fault.disconnect(), Fault(then="close"), Fault.status(500), Fault.status(429)])
async def test_a_stream_that_breaks_off_goes_on_with_the_rest(
    opened: Tanuki, server: LoopbackServer, storage: MemoryStorage, fault: Fault
) -> None:
    server.put(saying('{"value":["Anna", "Be', fault), '{"value":["Ben"]}')
    assert await listed(names("x")) == ["Anna", "Ben"]
    assert "broke off" in last_user_turn(server, 1)
    (record,) = await recorded(storage, names)
    assert (record["output"], record["repaired"]) == (["Anna", "Ben"], True)


async def test_without_repairs_the_error_of_the_break_is_raised(opened: Tanuki, server: LoopbackServer) -> None:
    server.put(saying('{"value":[1, 2', Fault.disconnect()), saying("[", Fault.status(500, message="oh dear")))
    items = await numbers("x")
    assert await anext(items) == 1
    with pytest.raises(ProviderUnreachableError) as caught:
        await anext(items)
    assert (caught.value.begun, len(caught.value.tried)) == (True, 1)
    assert opened.statistics().pool.accounts[0].failures == 1
    with pytest.raises(ProviderUnavailableError, match="oh dear"):
        await listed(numbers("x"))
    assert server.served == 2


async def test_before_the_first_piece_it_is_tried_again_like_any_request(
    server: LoopbackServer, storage: MemoryStorage
) -> None:
    async with tanuki_for(server, storage, clock=FakeClock(autojump=0.02)) as opened:
        server.put(Fault.status(500), Fault.status(503), ["Anna"])
        assert await listed(names("x")) == ["Anna"]
        assert opened.statistics().pool.accounts[0].retries == 2
    (record,) = await recorded_in(storage, names)
    assert record["repaired"] is False


async def test_another_teacher_goes_on_where_the_first_cannot(server: LoopbackServer, storage: MemoryStorage) -> None:
    async with (
        LoopbackServer([saying('{"value":["Anna", ', Fault.disconnect()), Fault.quota()]) as first,
        Tanuki(
            storage=storage,
            providers=[OpenAICompatible(first.url, name="first"), OpenAICompatible(server.url, name="second")],
            teacher_models=["first:small", "second:small"],
        ) as opened,
    ):
        server.put(["Ben"])
        assert await listed(names("x")) == ["Anna", "Ben"]
        assert at_rest(opened)


async def test_a_refusal_is_raised_and_asked_no_further(opened: Tanuki, server: LoopbackServer) -> None:
    server.put(Fault.refusal("I'd rather not."))
    with pytest.raises(RefusalError, match="rather not"):
        await listed(names("x"))
    assert server.served == 1


async def test_the_timeout_is_for_each_item(opened: Tanuki, server: LoopbackServer, storage: MemoryStorage) -> None:
    later = asyncio.Event()
    server.put(saying('{"value":["Anna"', later, ',"Ben"', asyncio.Event()))
    items = await hasty("x")
    assert await anext(items) == "Anna"
    await asyncio.sleep(0.2)  # the consumer's own time does not count
    later.set()
    assert await anext(items) == "Ben"
    with pytest.raises(CallTimeoutError, match="an answer"):
        await anext(items)
    await until(lambda: at_rest(opened) and server.connections == 0)
    assert await recorded(storage, hasty) == []


async def test_a_slow_consumer_slows_the_server_down(opened: Tanuki, server: LoopbackServer) -> None:
    sent = 0

    async def answer(_: object) -> AsyncIterator[str]:
        nonlocal sent
        yield '{"value":["x"'
        for _ in range(2000):
            sent += 1
            yield ',"' + "y" * 20_000 + '"'
            while server_buffer(server) > 100_000:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        yield "]}"

    server.put(answer)
    items = await names("x")
    assert await anext(items) == "x"
    await asyncio.sleep(0.1)
    assert sent < 1000
    assert len([item async for item in items]) == 2000


def server_buffer(server: LoopbackServer) -> int:
    (connection,) = server._open
    return connection._transport.get_write_buffer_size() if connection._transport else 0


async def test_closing_the_tanuki_ends_a_stream(server: LoopbackServer, storage: MemoryStorage) -> None:
    async with tanuki_for(server, storage) as opened:
        server.put(saying('{"value":["Anna"', asyncio.Event()))
        items = await names("x")
        assert await anext(items) == "Anna"
    with pytest.raises(NotOpenError):
        await anext(items)
    assert at_rest(opened)


async def test_many_streams_share_the_places(server: LoopbackServer, storage: MemoryStorage) -> None:
    provider = OpenAICompatible(server.url, name="loopback", limits=Limits(concurrency=2))
    server.put(*[["a", "b"]] * 9)
    async with tanuki_for(server, storage, providers=[provider]) as opened:
        found = await asyncio.gather(*(listed(names(str(i))) for i in range(9)))
        assert found == [["a", "b"]] * 9
        assert at_rest(opened)
    assert server.max_in_flight == 2
    assert server.connections_made == 2  # used again


async def test_nothing_is_left_of_many_streams_that_end_at_random_moments(storage: MemoryStorage) -> None:
    drawn = random.Random(7)

    async def answer(_: object) -> AsyncIterator[object]:
        yield '{"value":["a"'
        for _ in range(drawn.randrange(6)):
            await asyncio.sleep(drawn.random() * 0.01)
            yield ',"b"'
        if drawn.random() < 0.3:
            yield Fault.disconnect()
        yield "]}"

    async def consume(enough: int) -> None:
        found = 0
        async for _ in await names("x"):
            found += 1
            if found == enough:
                break

    async with LoopbackServer(answer) as server:
        provider = OpenAICompatible(server.url, name="loopback", limits=Limits(concurrency=20))
        async with tanuki_for(server, storage, providers=[provider]) as opened:
            tasks = [asyncio.ensure_future(consume(drawn.randrange(1, 9))) for _ in range(200)]
            for task in tasks[::3]:
                asyncio.get_running_loop().call_later(drawn.random() * 0.3, task.cancel)
            await asyncio.gather(*tasks, return_exceptions=True)
            await until(lambda: at_rest(opened) and opened.statistics().pool.http.in_flight == 0)
            await until(lambda: server.in_flight == 0)
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "tanuki stream"]


# Servers, clients and providers


async def test_a_server_that_does_not_stream_is_asked_as_ever(storage: MemoryStorage) -> None:
    async with LoopbackServer([["Anna"], ["Anna"]], streams=False) as server, tanuki_for(server, storage):
        assert await listed(names("x")) == ["Anna"]
        assert await listed(names("y")) == ["Anna"]
        assert server.served == 3  # the refusal is learnt once


async def test_a_provider_without_streams_gives_its_answer_whole(storage: MemoryStorage) -> None:
    fake = FakeProvider([["Anna", "Ben"]])
    async with Tanuki(storage=storage, providers=[fake], teacher_models="fake:m"):
        assert await listed(names("x")) == ["Anna", "Ben"]


async def test_a_client_of_the_users_own_streams_too(server: LoopbackServer, storage: MemoryStorage) -> None:
    first = asyncio.Event()
    async with httpx.AsyncClient() as client, tanuki_for(server, storage, http_client=client) as opened:
        server.put(saying('{"value":["Anna"', first, "]}"), saying('{"value":["Anna"', Fault.disconnect()), [])
        async for _ in await names("x"):
            first.set()
        assert await listed(names("y")) == ["Anna"]
        assert at_rest(opened)


# What belongs to it


def test_its_hash_is_its_own_and_the_same_however_it_is_written() -> None:
    async def names(text: str) -> AsyncIterator[str]:
        """List the names."""
        ...

    one = tanuki.describe(tanuki.patch(names)).hash
    names.__annotations__["return"] = typing.AsyncIterator[str]
    assert tanuki.describe(tanuki.patch(names)).hash == one
    names.__annotations__["return"] = list[str]
    assert tanuki.describe(tanuki.patch(names)).hash != one


@pytest.mark.parametrize(
    "returned", [AsyncIterator, AsyncIterable[str], AsyncGenerator[str, None], Annotated[AsyncIterator[str], "x"]]
)
def test_what_is_nearly_a_stream_is_refused(returned: Any) -> None:
    async def names(text: str) -> Any: ...

    names.__annotations__["return"] = returned
    with pytest.raises(StubError, match=r"AsyncIterator\[T\]"):
        tanuki.patch(names)


async def test_an_assert_compares_the_whole_list(opened: Tanuki, server: LoopbackServer) -> None:
    @tanuki.align
    async def align_names() -> None:
        assert await names("Anna and Ben") == ["Anna", "Ben"]  # type: ignore[comparison-overlap]

    await align_names()
    server.put(["Cleo"])
    assert await listed(names("Cleo")) == ["Cleo"]
    shown = [m["content"] for m in server.requests[0].body["messages"]]
    assert '{"value":["Anna","Ben"]}' in shown


async def test_an_assert_on_single_items_is_refused(opened: Tanuki) -> None:
    @tanuki.align
    async def align_names() -> None:
        assert [name async for name in await names("Anna")] == ["Anna"]

    with pytest.raises(AlignmentError, match="whole answer"):
        await align_names()


async def test_an_exam_collects_the_items(opened: Tanuki, server: LoopbackServer) -> None:
    @tanuki.align
    async def align_names() -> None:
        assert await names("Anna") == ["Anna"]  # type: ignore[comparison-overlap]

    server.put(["Anna"])
    exam = Exam()
    await exam.take(align_names)
    assert [verdict.holds for verdict in exam.verdicts] == [True]


async def test_amap_refuses_it(opened: Tanuki) -> None:
    with pytest.raises(UsageError, match="streams"):
        async for _ in tanuki.amap(names, ["x"]):
            pass


@pytest.mark.parametrize("options", [{"hedge": True}, {"single_flight": True}, {"cache": "memory"}])
async def test_what_makes_no_sense_for_a_stream_is_refused(opened: Tanuki, options: Any) -> None:
    @tanuki.patch(**options)
    async def names(text: str) -> AsyncIterator[str]:
        """List the names."""

    with pytest.raises(SettingsError, match="streams items"):
        await names("x")


async def test_a_stream_keeps_to_its_budget(opened: Tanuki, server: LoopbackServer) -> None:
    @tanuki.patch(budget=Budget(requests=2))
    async def names(text: str) -> AsyncIterator[str]:
        """List the names."""

    server.put(["Anna"], saying('{"value":["Anna"', asyncio.Event()))
    assert await listed(names("x")) == ["Anna"]
    items = await names("y")
    assert await anext(items) == "Anna"
    await items.aclose()  # type: ignore[attr-defined]  # left early, yet it counts
    with pytest.raises(BudgetExceededError):
        await listed(names("z"))


async def collect(answer: Any, found: list[Any]) -> None:
    async for item in await answer:
        found.append(item)  # noqa: PERF401  # what came before an error counts


async def listed(answer: Any) -> list[Any]:
    return [item async for item in await answer]


async def recorded_in(storage: MemoryStorage, f: Any) -> list[dict[str, Any]]:
    name = f"{tanuki.describe(f).hash}/PATCHES"
    return [json.loads(line) async for batch in storage.scan(name) for line in batch]


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(2):
        while not true():  # noqa: ASYNC110  # what is waited for tells nobody
            await asyncio.sleep(0.002)
