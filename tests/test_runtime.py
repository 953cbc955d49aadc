"""Which Tanuki answers on which loop, and that nothing is lost however a program or loop ends."""

import asyncio
import contextvars
import gc
import json
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from _spine import at_rest, recorded, settings_for, tanuki_for

import tanuki_async as tanuki
from tanuki_async import NotOpenError, StorageError, Tanuki
from tanuki_async._deadlines import Deadlines
from tanuki_async._runtime import current
from tanuki_async.storage.memory import MemoryStorage
from tanuki_async.testing import LoopbackServer
from tanuki_async.testing.answers import ChatRequest


@tanuki.patch
async def echo(text: str) -> str:
    """Give it back."""
    ...


def answer(request: ChatRequest) -> Any:
    return {"value": request.arguments["text"]}


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer.in_thread(answer) as running:
        yield running


@pytest.fixture
def environment(server: LoopbackServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """What a default Tanuki opens from; gives the directory of its data."""
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    monkeypatch.setenv("TANUKI_LOG_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


def kept(directory: Path) -> list[str]:
    """The answers on disk, of all functions."""
    lines = [line for path in directory.glob("*/PATCHES.jsonl") for line in path.read_text().splitlines()]
    return [json.loads(line)["output"] for line in lines]


# Programs: each is a script of its own, with the default Tanuki of its environment

PREFACE = """
import asyncio, os, signal, sys, threading
import tanuki_async as tanuki

@tanuki.patch
async def echo(text: str) -> str:
    '''Give it back.'''
    ...
"""
ENDINGS: dict[str, tuple[str, int]] = {
    "a normal end": ("async def main():\n    await echo('x')\nasyncio.run(main())", 0),
    "an exception": ("async def main():\n    await echo('x')\n    raise ValueError\nasyncio.run(main())", 1),
    "sys.exit": ("async def main():\n    await echo('x')\n    sys.exit(3)\nasyncio.run(main())", 3),
    "Ctrl-C": (
        (
            "async def main():\n    await echo('x')\n    os.kill(os.getpid(), signal.SIGINT)\n    await asyncio.sleep(9)\n"
            "asyncio.run(main())"
        ),
        -signal.SIGINT,
    ),
    "a Runner": ("with asyncio.Runner() as runner:\n    runner.run(echo('x'))", 0),
    "uvloop": ("import uvloop\nasync def main():\n    await echo('x')\nuvloop.run(main())", 0),
    "no shutdown": ("loop = asyncio.new_event_loop()\nloop.run_until_complete(echo('x'))\nloop.close()", 0),
    "no close": ("loop = asyncio.new_event_loop()\nloop.run_until_complete(echo('x'))", 0),
    "an explicit one and sys.exit": (
        (
            "async def main():\n    async with tanuki.Tanuki():\n        await echo('x')\n        sys.exit(3)\n"
            "asyncio.run(main())"
        ),
        3,
    ),
    "an explicit one and Ctrl-C": (
        (
            "async def main():\n    async with tanuki.Tanuki():\n        await echo('x')\n"
            "        os.kill(os.getpid(), signal.SIGINT)\n        await asyncio.sleep(9)\nasyncio.run(main())"
        ),
        -signal.SIGINT,
    ),
    "SIGTERM, which the program lets end its loop": (
        (
            "async def main():\n    task = asyncio.current_task()\n"
            "    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)\n"
            "    await echo('x')\n    os.kill(os.getpid(), signal.SIGTERM)\n    await asyncio.sleep(9)\n"
            "try:\n    asyncio.run(main())\nexcept asyncio.CancelledError:\n    sys.exit(4)"
        ),
        4,
    ),
    "a daemon's loop that never ends": (
        (
            "asked = threading.Event()\n"
            "async def main():\n    await echo('x')\n    asked.set()\n    await asyncio.sleep(99)\n"
            "threading.Thread(target=asyncio.run, args=(main(),), daemon=True).start()\nasked.wait()"
        ),
        0,
    ),
    "a loop in a thread": (
        (
            "async def main():\n    await echo('x')\n"
            "thread = threading.Thread(target=asyncio.run, args=(main(),))\nthread.start()\nthread.join()"
        ),
        0,
    ),
}


async def run_script(script: str, env: dict[str, str]) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-X", "dev", "-c", PREFACE + textwrap.dedent(script), env=env, stderr=subprocess.PIPE
    )
    async with asyncio.timeout(20):
        _, complaints = await process.communicate()
    assert process.returncode is not None
    return process.returncode, complaints.decode()


async def run_all(scripts: dict[str, str], env: dict[str, str], tmp_path: Path) -> dict[str, tuple[int, str]]:
    """Run scripts side by side, since starting one takes long; each has a directory of its own."""
    few = asyncio.Semaphore(4)

    async def run(place: int, script: str) -> tuple[int, str]:
        async with few:
            return await run_script(script, {**env, "TANUKI_LOG_DIR": str(tmp_path / f"data-{place}")})

    done = await asyncio.gather(*[run(place, script) for place, script in enumerate(scripts.values())])
    return dict(zip(scripts, done, strict=True))


async def test_nothing_is_lost_however_a_program_ends(
    environment: Path, subprocess_env: dict[str, str], tmp_path: Path
) -> None:
    pytest.importorskip("uvloop")

    ended = await run_all({name: script for name, (script, _) in ENDINGS.items()}, subprocess_env, tmp_path)

    found = {name: (ended[name][0], kept(tmp_path / f"data-{place}")) for place, name in enumerate(ENDINGS)}
    assert found == {name: (code, ["x"]) for name, (_, code) in ENDINGS.items()}
    noise = {name: text for name, (_, text) in ended.items() if "tanuki" in text.lower().replace("tanuki_async as", "")}
    assert {name for name, text in noise.items() if "Exception ignored" in text or "never" in text} == set()


async def test_a_daemons_loop_that_is_busy_at_the_end_is_closed_in_order(
    environment: Path, subprocess_env: dict[str, str]
) -> None:
    script = """
    asked = threading.Event()
    async def main():
        for number in range(10**6):
            await echo(str(number))
            if number == 100:
                asked.set()
    threading.Thread(target=asyncio.run, args=(main(),), daemon=True).start()
    asked.wait()
    """
    code, complaints = await run_script(script, subprocess_env)

    assert code == 0
    assert "atexit" not in complaints
    assert {str(number) for number in range(100)} < set(kept(environment))


# The default one


def test_the_default_opens_from_the_environment(environment: Path, server: LoopbackServer) -> None:
    assert asyncio.run(echo("x")) == "x"

    assert kept(environment) == ["x"]
    assert server.requests[0].headers["authorization"] == "Bearer sk-test"
    assert server.requests[0].model == "gpt-6.2-sol"


def test_loops_one_after_another_each_have_their_own(environment: Path) -> None:
    for number in range(4):
        assert asyncio.run(echo(f"{number}")) == f"{number}"

    assert kept(environment) == ["0", "1", "2", "3"]


def test_loops_in_threads_each_have_their_own(environment: Path) -> None:
    found: list[Any] = []

    def work(number: int) -> None:
        async def main() -> None:
            found.append((await echo(f"{number}"), current()))

        asyncio.run(main())

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(text for text, _ in found) == [f"{number}" for number in range(6)]
    assert len({id(each) for _, each in found}) == 6
    assert sorted(kept(environment)) == [f"{number}" for number in range(6)]


def test_a_replayed_call_is_recorded_once_over_many_loops(environment: Path) -> None:
    for _ in range(3):
        asyncio.run(echo("same"))

    assert kept(environment) == ["same"]


def test_an_ended_loop_leaves_nothing_in_memory(environment: Path) -> None:
    left: list[weakref.ref[Any]] = []

    async def main() -> None:
        await echo("x")
        left.extend((weakref.ref(asyncio.get_running_loop()), weakref.ref(current())))

    for _ in range(2):
        asyncio.run(main())
    gc.collect()

    assert [each() for each in left] == [None] * 4


def test_one_runner_keeps_one_tanuki_between_its_runs(environment: Path) -> None:
    async def which() -> Tanuki:
        await echo("x")
        return current()

    with asyncio.Runner() as runner:
        first = runner.run(which())
        assert runner.run(which()) is first
    assert not first.is_open


def test_a_call_while_the_default_closes_does_not_hang(environment: Path) -> None:
    errors: list[BaseException] = []

    async def lingering() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            try:
                await echo("late")
            except NotOpenError as error:
                errors.append(error)

    async def main() -> None:
        await echo("x")
        task = asyncio.create_task(lingering())
        await asyncio.sleep(0)
        task.get_name()

    asyncio.run(main())

    assert set(kept(environment)) == ({"x"} if errors else {"x", "late"})


def test_configure_changes_what_is_opened_from_now_on(
    server: LoopbackServer, storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tanuki_async import _runtime

    monkeypatch.setattr(_runtime, "_defaults", _runtime._defaults)  # put back what it was
    tanuki.configure(**settings_for(server, storage))

    async def main() -> list[dict[str, Any]]:
        await echo("x")
        return await recorded(storage, echo)

    assert len(asyncio.run(main())) == 1
    with pytest.raises(tanuki.SettingsError, match="did you mean 'storage'"):
        tanuki.configure(storag=storage)  # type: ignore[call-arg]


async def test_a_directory_that_cannot_be_used_does_not_fail_a_call_of_the_default(
    environment: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("TANUKI_LOG_DIR", str(tmp_path / "file"))

    assert await echo("x") == "x"
    with pytest.raises(StorageError):
        await tanuki.flush()
    current()._recorder._waiting.give_up()  # so that the end of this test's loop has nothing to wait for


# Explicit ones


@pytest.fixture
async def opened(server: LoopbackServer, storage: MemoryStorage) -> AsyncIterator[Tanuki]:
    async with tanuki_for(server, storage) as running:
        yield running


async def test_tasks_started_outside_find_the_open_one(server: LoopbackServer, storage: MemoryStorage) -> None:
    go = asyncio.Event()

    async def handler() -> tuple[str, Tanuki]:
        await go.wait()
        return await echo("from outside"), current()

    task = asyncio.create_task(handler())
    async with tanuki_for(server, storage) as opened:
        go.set()
        assert await task == ("from outside", opened)


async def test_a_context_made_before_finds_the_open_one(server: LoopbackServer, storage: MemoryStorage) -> None:
    before = contextvars.copy_context()

    async with tanuki_for(server, storage) as opened:
        assert await asyncio.create_task(which(), context=before) is opened


async def which() -> Tanuki:
    return current()


async def test_the_inner_of_two_answers_inside_and_the_outer_after(server: LoopbackServer) -> None:
    first, second = MemoryStorage(), MemoryStorage()

    async with tanuki_for(server, first) as outer:
        await echo("a")
        async with tanuki_for(server, second) as inner:
            assert current() is inner
            await echo("b")
            assert await asyncio.create_task(which()) is inner
        assert current() is outer
        await echo("c")
        assert [r["output"] for r in await recorded(first, echo)] == ["a", "c"]
    assert await second.names() == await first.names()


async def test_one_tasks_inner_tanuki_does_not_answer_for_others(server: LoopbackServer) -> None:
    opened, close = asyncio.Event(), asyncio.Event()
    unrelated = contextvars.copy_context()

    async def tenant() -> Tanuki:
        async with tanuki_for(server, MemoryStorage()) as inner:
            opened.set()
            await close.wait()
            return inner

    async with tanuki_for(server, MemoryStorage()) as outer:
        async with tanuki_for(server, MemoryStorage()) as mine:
            task = asyncio.create_task(tenant())
            await opened.wait()
            assert current() is mine
        assert current() is outer
        assert await asyncio.create_task(which(), context=unrelated) is outer
        close.set()
        assert await task is not outer


async def test_an_explicit_one_comes_before_a_default_that_was_there(
    environment: Path, server: LoopbackServer, storage: MemoryStorage
) -> None:
    await echo("x")
    default = current()
    unrelated = contextvars.copy_context()

    async with tanuki_for(server, storage) as opened:
        assert current() is opened
        assert await asyncio.create_task(which(), context=unrelated) is opened
    assert current() is default


async def test_a_closed_one_answers_no_more(server: LoopbackServer, storage: MemoryStorage) -> None:
    async with tanuki_for(server, storage) as opened:
        await echo("x")

    assert not opened.is_open
    with pytest.raises(NotOpenError, match=r"closed; keep its `async with tanuki\.Tanuki"):
        await echo("y")
    with pytest.raises(NotOpenError, match="make a new one"):
        async with opened:
            raise AssertionError("not reached")


async def test_a_closed_one_leaves_no_timer_behind(server: LoopbackServer, storage: MemoryStorage) -> None:
    async with tanuki_for(server, storage):
        await echo("a")

    scheduled: Any = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
    owners = [getattr(each._callback, "__self__", None) for each in scheduled if not each.cancelled()]
    assert not [owner for owner in owners if isinstance(owner, Deadlines)]


async def test_a_new_one_may_be_opened_after_a_closed_one(server: LoopbackServer, storage: MemoryStorage) -> None:
    for text in ("x", "y"):
        async with tanuki_for(server, storage):
            assert await echo(text) == text
    assert await storage.count(f"{tanuki.describe(echo).hash}/PATCHES") == 2


async def test_another_loop_uses_its_own(opened: Tanuki, environment: Path, server: LoopbackServer) -> None:
    def elsewhere() -> Tanuki:
        async def main() -> Tanuki:
            await echo("elsewhere")
            return current()

        return asyncio.run(main())

    assert await asyncio.to_thread(elsewhere) is not opened  # though to_thread copies the context
    assert await asyncio.to_thread(kept, environment) == ["elsewhere"]
    assert current() is opened


async def test_closing_on_another_loop_is_refused(opened: Tanuki) -> None:
    with pytest.raises(NotOpenError, match="on the event loop that it was opened on"):
        await asyncio.to_thread(asyncio.run, opened.aclose())
    assert opened.is_open


async def test_opening_one_that_is_open_elsewhere_is_refused(opened: Tanuki) -> None:
    with pytest.raises(NotOpenError, match="make a new one"):
        await asyncio.to_thread(asyncio.run, opened.__aenter__())


async def test_no_call_is_answered_while_closing_whose_example_would_be_lost() -> None:
    asked, release = asyncio.Event(), asyncio.Event()

    async def late(request: ChatRequest) -> Any:
        asked.set()
        await release.wait()
        return answer(request)

    class SlowToClose(MemoryStorage):
        async def aclose(self) -> None:
            release.set()
            await asyncio.sleep(0.05)
            await super().aclose()

    async with LoopbackServer(late) as server:
        async with tanuki_for(server, SlowToClose()) as opened:
            call = asyncio.create_task(echo("x"))
            await asked.wait()
        (outcome,) = await asyncio.gather(call, return_exceptions=True)
    assert isinstance(outcome, NotOpenError)
    assert opened.statistics().recorder.failed == 0


async def test_answers_that_have_come_when_closing_begins_are_given_and_kept() -> None:
    release = asyncio.Event()

    async def together(request: ChatRequest) -> Any:
        await release.wait()
        return answer(request)

    async with LoopbackServer(together) as server:
        async with tanuki_for(server, MemoryStorage()) as opened:
            calls = [asyncio.create_task(echo(str(number))) for number in range(300)]
            await server.wait_requests(300)
            release.set()
            await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
    answered = sum(isinstance(outcome, str) for outcome in outcomes)
    assert answered + sum(isinstance(outcome, NotOpenError) for outcome in outcomes) == 300
    assert (opened.statistics().recorder.written, opened.statistics().recorder.failed) == (answered, 0)


async def test_closing_twice_is_fine_and_before_opening_too(server: LoopbackServer, storage: MemoryStorage) -> None:
    never = tanuki_for(server, storage)
    await never.aclose()
    async with tanuki_for(server, storage) as opened:
        await opened.aclose()
        await opened.aclose()
    await asyncio.gather(opened.aclose(), opened.aclose())


class SlowStorage(MemoryStorage):
    """Takes a while to append and to put."""

    async def append(self, *args: Any, **kwargs: Any) -> Any:
        await asyncio.sleep(0.05)
        return await super().append(*args, **kwargs)

    async def put(self, *args: Any, **kwargs: Any) -> Any:
        await asyncio.sleep(0.05)
        return await super().put(*args, **kwargs)


async def test_cancelling_a_close_loses_nothing(server: LoopbackServer) -> None:
    storage = SlowStorage()

    async def work() -> None:
        async with tanuki_for(server, storage):
            await echo("x")

    task = asyncio.create_task(work())
    await until(lambda: server.served == 1)
    await asyncio.sleep(0.02)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0.005)
    with pytest.raises(asyncio.CancelledError):
        await task

    assert await storage.count(f"{tanuki.describe(echo).hash}/PATCHES") == 1


@pytest.mark.parametrize("moment", [0.0, 0.03, 0.08, 0.13])
def test_a_loop_that_ends_during_a_close_loses_nothing(server: LoopbackServer, moment: float) -> None:
    storage = SlowStorage()

    async def service() -> None:
        async with tanuki_for(server, storage, flush_interval=5):
            await echo("x")
            closing.set()

    async def main() -> None:
        nonlocal closing, task
        closing = asyncio.Event()
        task = asyncio.create_task(service())
        await closing.wait()
        await asyncio.sleep(moment)

    closing: Any = None
    task: Any = None
    asyncio.run(main())

    assert asyncio.run(storage.count(f"{tanuki.describe(echo).hash}/PATCHES")) == 1


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(2):
        while not true():  # noqa: ASYNC110  # the server is on a loop of its own
            await asyncio.sleep(0.005)


async def test_an_error_inside_comes_out_and_nothing_is_lost(server: LoopbackServer, storage: MemoryStorage) -> None:
    async def work() -> None:
        async with tanuki_for(server, storage):
            await echo("x")
            raise LookupError

    with pytest.raises(LookupError):
        await work()

    assert await storage.count(f"{tanuki.describe(echo).hash}/PATCHES") == 1


async def test_calls_on_their_way_end_when_it_closes(storage: MemoryStorage) -> None:
    async def never(request: ChatRequest) -> None:
        await asyncio.Event().wait()

    async with LoopbackServer(never) as server:
        async with tanuki_for(server, storage) as opened:
            calls = [asyncio.create_task(echo(f"{number}")) for number in range(5)]
            await server.wait_requests(5)
        ended = await asyncio.gather(*calls, return_exceptions=True)
        assert at_rest(opened)

    assert {type(each) for each in ended} == {NotOpenError}
    assert await storage.count(f"{tanuki.describe(echo).hash}/PATCHES") == 0


async def test_a_user_client_stays_open(server: LoopbackServer, storage: MemoryStorage) -> None:
    httpx = pytest.importorskip("httpx")
    async with httpx.AsyncClient() as client:
        async with tanuki_for(server, storage, http_client=client):
            assert await echo("x") == "x"
        assert not client.is_closed


async def test_one_that_cannot_be_opened_does_not_stay_the_one_of_this_task(
    server: LoopbackServer, storage: MemoryStorage, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    async with tanuki_for(server, storage), tanuki_for(server, storage) as inner:
        with pytest.raises(StorageError):
            await tanuki_for(server, tmp_path / "file").__aenter__()
        assert current() is inner


@pytest.mark.parametrize("freed", [True, False])
async def test_a_full_disk_fails_no_call_and_is_counted_and_told_once(
    freed: bool, server: LoopbackServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        async with tanuki_for(server, tmp_path / "data", journal=tmp_path / "journal", close_timeout=0.3) as running:
            await echo("before")
            await tanuki.flush()
            resource.setrlimit(resource.RLIMIT_FSIZE, (300, limits[1]))
            assert [await echo(f"text {n}") for n in range(10)] == [f"text {n}" for n in range(10)]
            with pytest.raises(StorageError, match="may not grow"):
                await tanuki.flush()
            numbers = running.statistics().recorder
            assert (numbers.queued + numbers.written, numbers.failed) == (11, 0)
            assert len([each for each in caplog.records if "examples wait" in each.message]) == 1
            if freed:
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)
                await tanuki.flush()
        numbers = running.statistics().recorder
        assert (numbers.failed == 0) is freed
        assert len(kept(tmp_path / "data")) == numbers.written
        assert not any("refuses" in each.message for each in caplog.records)
        assert "Library.aclose failed" not in caplog.text
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


async def test_a_closed_one_goes_on_reading_nothing(server: LoopbackServer, monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(MemoryStorage):
        async def scan(self, name: str, *, start: int = 0) -> AsyncIterator[list[bytes]]:
            await asyncio.sleep(99)
            yield []

    monkeypatch.setattr("tanuki_async._library.RECALL_TIMEOUT", 0.05)
    before = asyncio.all_tasks()
    async with tanuki_for(server, Silent()):
        call = asyncio.create_task(echo("x"))
        await asyncio.sleep(0.01)
        call.cancel()
    await asyncio.sleep(0.1)
    assert asyncio.all_tasks() == before


async def test_an_open_one_leaves_no_task_behind(server: LoopbackServer, storage: MemoryStorage) -> None:
    before = asyncio.all_tasks()

    async with tanuki_for(server, storage):
        await asyncio.gather(*[echo(f"{number}") for number in range(20)])
    await asyncio.sleep(0)

    assert asyncio.all_tasks() == before


async def test_what_is_opened_shows_what_it_does(opened: Tanuki, storage: MemoryStorage) -> None:
    await asyncio.gather(*[echo(f"{number % 5}") for number in range(10)])
    await tanuki.flush()

    counted = opened.statistics()
    assert (counted.recorder.written, counted.recorder.deduplicated, counted.recorder.queued) == (5, 5, 0)
    assert counted.pool.accounts[0].requests == 10
    assert at_rest(opened)


async def test_a_program_without_calls_opens_nothing(environment: Path) -> None:
    tanuki.describe(echo)

    assert not await asyncio.to_thread(environment.exists)


def test_verbs_need_a_loop() -> None:
    def outside(verb: Awaitable[Any]) -> None:
        with pytest.raises(NotOpenError, match="running event loop"):
            verb.__await__().send(None)  # type: ignore[attr-defined]

    outside(tanuki.flush())
    outside(tanuki.status(echo))
