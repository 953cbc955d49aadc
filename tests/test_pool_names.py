from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from tanuki_async._errors import NotOpenError
from tanuki_async._pool.names import Names, is_address


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Who was looked up; `six.invalid` has addresses of two kinds."""
    hosts: list[str] = []

    async def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        hosts.append(host)
        await asyncio.sleep(0.001)
        if host == "never.invalid":
            await asyncio.Event().wait()
        if host == "none.invalid":
            raise socket.gaierror("no such host")
        found = ["10.0.0.1", "10.0.0.2", "10.0.0.1"]
        if host == "six.invalid":
            found = ["fd00::1", "fd00::2", "10.0.0.1"]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    loop_class = asyncio.BaseEventLoop
    monkeypatch.setattr(
        loop_class, "getaddrinfo", lambda self, host, port, **options: getaddrinfo(host, port, **options)
    )
    return hosts


async def test_many_share_one_look_up_and_take_turns(asked: list[str]) -> None:
    names = Names()
    found = await asyncio.gather(*(names.addresses("a.invalid", 443) for _ in range(4)))
    assert asked == ["a.invalid"]
    assert sorted(addresses[0] for addresses in found) == ["10.0.0.1"] * 2 + ["10.0.0.2"] * 2
    assert {frozenset(addresses) for addresses in found} == {frozenset({"10.0.0.1", "10.0.0.2"})}


async def test_an_answer_is_kept_only_for_a_while(asked: list[str]) -> None:
    names = Names(kept_seconds=-1)
    await names.addresses("a.invalid", 443)
    await names.addresses("a.invalid", 443)
    assert len(asked) == 2


async def test_addresses_of_the_other_kind_stay_behind(asked: list[str]) -> None:
    names = Names()
    assert {(await names.addresses("six.invalid", 443))[2] for _ in range(4)} == {"10.0.0.1"}


async def test_an_address_that_failed_comes_last(asked: list[str]) -> None:
    names = Names()
    await names.addresses("six.invalid", 443)
    for address in ("fd00::1", "fd00::2"):
        names.failed("six.invalid", 443, address)
    assert [(await names.addresses("six.invalid", 443))[0] for _ in range(3)] == ["10.0.0.1"] * 3
    names.failed("other.invalid", 443, "10.0.0.1")


async def test_a_failure_is_not_kept(asked: list[str]) -> None:
    names = Names()
    for _ in range(2):
        with pytest.raises(OSError, match="no such host"):
            await names.addresses("none.invalid", 443)
    assert len(asked) == 2


async def test_each_who_waits_gets_a_failure_of_its_own(asked: list[str]) -> None:
    names = Names()

    errors = await asyncio.gather(*(names.addresses("none.invalid", 443) for _ in range(3)), return_exceptions=True)

    assert len(asked) == 1
    assert [str(each) for each in errors] == ["no such host"] * 3
    assert len({id(each) for each in errors}) == 3


async def test_who_is_cancelled_does_not_take_the_look_up_from_the_others(asked: list[str]) -> None:
    names = Names()
    first, second = (asyncio.create_task(names.addresses("a.invalid", 443)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert len(await second) == 2
    assert first.cancelled()


async def test_closing_ends_who_waits_with_a_clear_error(asked: list[str]) -> None:
    names = Names()
    task = asyncio.create_task(names.addresses("never.invalid", 443))
    await asyncio.sleep(0.002)
    names.close()
    with pytest.raises(NotOpenError):
        await task


def test_an_address_is_no_name() -> None:
    assert [is_address(host) for host in ("127.0.0.1", "::1", "fe80::1%eth0", "localhost", "1.2.3")] == [True] * 3 + [
        False
    ] * 2
