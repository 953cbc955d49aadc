"""Many calls through one bounded window: order, errors, back-pressure, and nothing left behind."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from types import MappingProxyType
from typing import Any, Literal

import pytest
from _spine import at_rest, recorded, tanuki_for

import tanuki_async as tanuki
from tanuki_async import InputError, OutputError, Tanuki, UsageError
from tanuki_async.storage.memory import MemoryStorage
from tanuki_async.testing import LoopbackServer
from tanuki_async.testing.answers import ChatRequest


@tanuki.patch(max_repairs=0)
async def double(n: int) -> int:
    """Double a number."""
    ...


@tanuki.patch
async def area(width: int, height: int = 1, *, unit: Literal["m", "cm"] = "m") -> str:
    """Tell the area."""
    ...


def answer(request: ChatRequest) -> Any:
    given = request.arguments
    if "n" in given:
        return "nonsense" if given["n"] < 0 else {"value": given["n"] * 2}
    return {"value": f"{given['width'] * given['height']} {given['unit']}2"}


@pytest.fixture
async def server() -> AsyncIterator[LoopbackServer]:
    async with LoopbackServer(answer) as running:
        yield running


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture(autouse=True)
async def opened(server: LoopbackServer, storage: MemoryStorage) -> AsyncIterator[Tanuki]:
    async with tanuki_for(server, storage) as running:
        yield running
        assert at_rest(running)


def workers() -> list[asyncio.Task[Any]]:
    return [task for task in asyncio.all_tasks() if task.get_name().startswith("tanuki amap")]


async def slowed(request: ChatRequest) -> Any:
    await asyncio.sleep(0.02 if request.arguments["n"] % 10 == 0 else 0)
    return answer(request)


async def test_results_come_in_the_order_of_the_items(server: LoopbackServer, storage: MemoryStorage) -> None:
    server.put(*[slowed] * 100)

    results = [result async for result in tanuki.amap(double, range(100), concurrency=10)]

    assert results == [2 * n for n in range(100)]
    assert server.max_in_flight <= 10
    assert len(await recorded(storage, double)) == 100


async def test_unordered_results_come_as_they_are_ready(server: LoopbackServer) -> None:
    server.put(*[slowed] * 30)

    results = [result async for result in tanuki.amap(double, range(30), concurrency=10, ordered=False)]

    assert sorted(results) == [2 * n for n in range(30)]
    assert results[0] != 0


async def test_the_concurrency_is_used_and_kept(server: LoopbackServer) -> None:
    server.latency = 0.01

    async for _ in tanuki.amap(double, range(60), concurrency=20):
        pass

    assert 10 <= server.max_in_flight <= 20


async def test_the_default_concurrency_is_64(server: LoopbackServer) -> None:
    server.latency = 0.05

    results = [result async for result in tanuki.amap(double, range(200))]

    assert len(results) == 200
    assert 32 <= server.max_in_flight <= 64


async def test_no_items_give_no_results() -> None:
    assert [result async for result in tanuki.amap(double, [])] == []
    assert [result async for result in tanuki.amap(double, iter(()), ordered=False)] == []


@pytest.mark.parametrize("ordered", [True, False])
async def test_a_slow_consumer_holds_the_source_back(server: LoopbackServer, ordered: bool) -> None:
    taken = 0

    def source() -> Iterator[int]:
        nonlocal taken
        for number in itertools.count():
            taken = number + 1
            yield number

    results = tanuki.amap(double, source(), concurrency=5, ordered=ordered)
    for number in range(10):
        await anext(results)
        await asyncio.sleep(0.01)
        assert taken - (number + 1) <= 4 * 5 + 1
    await results.aclose()  # type: ignore[attr-defined]

    assert server.served <= 10 + 4 * 5
    assert not workers()


@pytest.mark.parametrize("ordered", [True, False])
async def test_a_slow_source_does_not_hold_results_back(ordered: bool) -> None:
    more = asyncio.Event()

    async def source() -> AsyncIterator[int]:
        yield 1
        yield 2
        await more.wait()
        yield 3

    results = tanuki.amap(double, source(), ordered=ordered)
    async with asyncio.timeout(1):
        first = [await anext(results), await anext(results)]
        more.set()
        rest = [result async for result in results]

    assert sorted(first) == [2, 4]
    assert rest == [6]


async def test_nothing_is_taken_before_the_first_result_is_asked_for() -> None:
    taken: list[int] = []

    def source() -> Iterator[int]:
        taken.append(1)
        yield 1

    tanuki.amap(double, source())
    await asyncio.sleep(0)

    assert not taken


# Errors


async def collect(results: AsyncIterator[Any], into: list[Any]) -> None:
    async for result in results:
        into.append(result)  # noqa: PERF401  # what came before an error is to be seen


@pytest.mark.parametrize("ordered", [True, False])
async def test_an_error_is_raised_and_the_rest_is_cancelled(server: LoopbackServer, ordered: bool) -> None:
    server.latency = 0.005
    seen: list[int] = []
    items = [1, 2, -1, *range(3, 1000)]

    with pytest.raises(OutputError):
        await collect(tanuki.amap(double, items, concurrency=4, ordered=ordered), seen)

    assert set(seen) <= {2, 4, 6, 8, 10, 12, 14, 16}
    assert server.served < 30
    assert not workers()


async def test_errors_are_returned_in_their_place() -> None:
    results = [result async for result in tanuki.amap(double, [1, -1, 3], on_error="return")]

    assert results[0::2] == [2, 6]
    assert isinstance(results[1], OutputError)


async def test_errors_are_skipped() -> None:
    items: list[Any] = [1, -1, "x", 3]

    assert [result async for result in tanuki.amap(double, items, on_error="skip")] == [2, 6]


async def test_an_item_that_does_not_fit_is_an_error_of_that_item() -> None:
    items: list[Any] = [1, "x", 3]

    results = [result async for result in tanuki.amap(double, items, on_error="return")]

    assert isinstance(results[1], InputError)
    assert results[1].parameter == "n"


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("on_error", ["raise", "return", "skip"])
async def test_an_error_of_the_source_comes_after_its_items(ordered: bool, on_error: Any) -> None:
    def source() -> Iterator[int]:
        yield 1
        yield 2
        raise LookupError("the source is torn")

    seen: list[Any] = []
    with pytest.raises(LookupError, match="torn"):
        await collect(tanuki.amap(double, source(), ordered=ordered, on_error=on_error), seen)

    assert sorted(seen) == [2, 4]
    assert not workers()


async def test_an_error_of_an_async_source_at_its_start_is_raised() -> None:
    async def source() -> AsyncIterator[int]:
        raise LookupError("torn")
        yield 1

    with pytest.raises(LookupError):
        await anext(tanuki.amap(double, source()))


# Spreading items over parameters


async def test_tuples_and_mappings_are_spread_over_several_parameters() -> None:
    items: list[Any] = [(2, 3), (2,), {"width": 2, "unit": "cm"}, MappingProxyType({"width": 4, "height": 2})]

    results = [result async for result in tanuki.amap(area, items)]

    assert results == ["6 m2", "2 m2", "2 cm2", "8 m2"]


async def test_one_parameter_takes_the_item_whole(server: LoopbackServer) -> None:
    @tanuki.patch
    async def size(pair: tuple[int, int]) -> int:
        """Multiply."""
        ...

    @tanuki.patch
    async def keys(table: dict[str, int]) -> int:
        """Count."""
        ...

    server.put('{"value":6}', '{"value":1}')

    assert [result async for result in tanuki.amap(size, [(2, 3)])] == [6]
    assert [result async for result in tanuki.amap(keys, [{"table": 1}])] == [1]


async def test_an_item_that_cannot_be_spread_says_what_it_should_be() -> None:
    with pytest.raises(InputError, match=r"a mapping or a tuple of \(width, height, unit\), not 3"):
        await anext(tanuki.amap(area, [3]))
    with pytest.raises(InputError, match="'weight'"):
        await anext(tanuki.amap(area, [{"weight": 3}]))


async def test_methods_are_mapped_too(server: LoopbackServer) -> None:
    class Desk:
        @tanuki.patch
        async def note(self, text: str) -> str:
            """Note."""
            ...

    server.put('{"value":"noted"}')

    assert [result async for result in tanuki.amap(Desk().note, ["a"])] == ["noted"]


# Sources


async def test_an_async_source_is_read() -> None:
    async def source() -> AsyncIterator[int]:
        for number in range(5):
            await asyncio.sleep(0)
            yield number

    assert [result async for result in tanuki.amap(double, source())] == [0, 2, 4, 6, 8]


async def test_leaving_early_cancels_what_runs(server: LoopbackServer, opened: Tanuki) -> None:
    server.latency = 0.01
    results = tanuki.amap(double, itertools.count(), concurrency=8)

    async for result in results:
        if result == 8:
            break
    await results.aclose()  # type: ignore[attr-defined]

    assert not workers()
    assert at_rest(opened)
    served = server.served
    await asyncio.sleep(0.03)
    assert server.served == served


async def test_an_async_source_is_closed_when_the_loop_is_left() -> None:
    closed = False

    async def source() -> AsyncIterator[int]:
        nonlocal closed
        try:
            for number in itertools.count():
                yield number
        finally:
            closed = True

    results = tanuki.amap(double, source(), concurrency=2)
    await anext(results)
    await results.aclose()  # type: ignore[attr-defined]
    await asyncio.sleep(0.01)

    assert closed


async def test_cancelling_the_consumer_cancels_what_runs(server: LoopbackServer, opened: Tanuki) -> None:
    server.latency = 5

    async def consume() -> None:
        async for _ in tanuki.amap(double, range(100), concurrency=8):
            pass

    task = asyncio.create_task(consume())
    await server.wait_requests(8)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert not workers()
    assert at_rest(opened)


async def test_two_maps_at_once_do_not_mix() -> None:
    async def all_of(items: range) -> list[int]:
        return [result async for result in tanuki.amap(double, items, concurrency=3)]

    assert await asyncio.gather(all_of(range(20)), all_of(range(100, 120))) == [
        [2 * n for n in range(20)],
        [2 * n for n in range(100, 120)],
    ]


# Progress


async def test_progress_is_told_after_each_item() -> None:
    told: list[tuple[int, int]] = []

    def tell(done: int, failed: int) -> None:
        told.append((done, failed))

    async for _ in tanuki.amap(double, [1, -1, 3], on_error="skip", progress=tell):
        pass

    assert told == [(1, 0), (2, 1), (3, 1)]


async def test_a_bar_is_silent_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rich")

    assert [result async for result in tanuki.amap(double, [1, 2], progress=True)] == [2, 4]
    assert capsys.readouterr() == ("", "")


# Arguments that cannot work


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: tanuki.amap(double, [1], concurrency=0), "concurrency must be 1 or more"),
        (lambda: tanuki.amap(double, [1], concurrency=1.5), "concurrency must be"),  # type: ignore[arg-type]
        (lambda: tanuki.amap(double, [1], on_error="ignore"), "'raise', 'return' or 'skip'"),  # type: ignore[call-overload]
        (lambda: tanuki.amap(double, 3), "not 3"),  # type: ignore[arg-type]
        (lambda: tanuki.amap(double, "123"), "not '123'"),
        (lambda: tanuki.amap(double, {"n": 1}), "not {'n': 1}"),
        (lambda: tanuki.amap(len, [[1]]), "coroutine function"),  # type: ignore[arg-type]
        (lambda: tanuki.amap(lambda n: n, [1]), "not `async def`"),  # type: ignore[arg-type, return-value]
        (lambda: tanuki.amap("double", [1]), "coroutine function"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_work_is_refused_at_once(make: Any, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        make()
    assert words in str(caught.value)
