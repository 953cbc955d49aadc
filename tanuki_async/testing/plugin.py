"""The pytest plugin: a fake provider, a loopback server, a clock and an open Tanuki as fixtures.

Loaded in every pytest run of an environment that has this package, so it imports nothing but pytest, and does
nothing until a fixture is asked for.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tanuki_async import Tanuki
    from tanuki_async.testing import FakeClock, FakeProvider, LoopbackServer


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--tanuki-eval`."""
    parser.getgroup("tanuki_async").addoption(
        "--tanuki-eval",
        action="store_true",
        help="run the asserts of align functions against the real model, instead of learning from them",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Heed `--tanuki-eval`."""
    if config.getoption("--tanuki-eval"):
        from tanuki_async import _exam

        _exam.always(examine=True)


@pytest.fixture
def tanuki_server() -> Iterator[Callable[..., LoopbackServer]]:
    """A function that starts a loopback server in a thread, and takes its arguments; closed after the test.

    The test fails if scripted answers are left, or an answerer failed.
    """
    from tanuki_async.testing import LoopbackServer

    servers: list[LoopbackServer] = []
    with ExitStack() as stack:

        def start(*answer: object, **options: Any) -> LoopbackServer:
            server = stack.enter_context(LoopbackServer.in_thread(*answer, **options))
            servers.append(server)
            return server

        yield start
    for server in servers:
        server.assert_done()


@pytest.fixture
def tanuki_clock() -> FakeClock:
    """A clock that stands still until `await clock.advance(seconds)`."""
    from tanuki_async.testing import FakeClock

    return FakeClock()


@pytest.fixture
def fake_provider() -> Iterator[FakeProvider]:
    """A scripted provider called "fake". The test fails if answers `put` into it are left."""
    from tanuki_async.testing import FakeProvider

    provider = FakeProvider()
    yield provider
    provider.assert_done()


def _async_fixture(function: Callable[..., Any]) -> Any:
    """Make a fixture for pytest-asyncio, or for a runner that takes plain async fixtures, such as anyio's."""
    try:
        from pytest_asyncio import fixture
    except ImportError:
        return pytest.fixture(function)
    return fixture(function)


@_async_fixture
async def tanuki(fake_provider: FakeProvider) -> AsyncIterator[Tanuki]:
    """An open Tanuki of this test's event loop: storage in memory, `fake_provider` as its teacher."""
    from tanuki_async import Tanuki
    from tanuki_async.storage.memory import MemoryStorage

    async with Tanuki(
        storage=MemoryStorage(), providers=[fake_provider], teacher_models=[f"{fake_provider.name}:teacher"]
    ) as opened:
        yield opened
