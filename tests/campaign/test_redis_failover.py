"""A primary dies while processes answer and record: a Cluster's, and that of Sentinels, through the public API."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import _redis
import pytest

pytest.importorskip("redis.asyncio.sentinel")

from failover_child import NAME

from tanuki_async._errors import StorageError
from tanuki_async._keeping.verify import verify
from tanuki_async._lines import decode_line
from tanuki_async.abc import Appended
from tanuki_async.storage.redis import RedisStorage

CHILD = Path(__file__).with_name("failover_child.py")
PROCESSES, SECONDS, MORE = 3, 6.0, 1_000_000

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(300)]


@dataclass
class Told:
    """What one process told: the last number that was acknowledged and answered, and the most lines in the journal."""

    first: int
    acknowledged: int = -1
    spilled: int = 0
    answered: int = -1


def start(
    place: str, number: int, directory: Path, env: dict[str, str], first: int, seconds: float = SECONDS
) -> subprocess.Popen[str]:
    arguments = [place, str(directory / f"journal-{number}"), str(first), str(seconds)]
    return subprocess.Popen([sys.executable, str(CHILD), *arguments], env=env, stdout=subprocess.PIPE, text=True)


def heard(process: subprocess.Popen[str], first: int) -> Told:
    told, out = Told(first), process.communicate(timeout=120)[0]
    for kind, number in (line.split() for line in out.splitlines()):
        if kind == "K":
            told.acknowledged = int(number)
        elif kind == "S":
            told.spilled = int(number)
        else:
            told.answered = int(number)
    assert process.returncode == 0
    return told


def says(server: _redis.Server, word: bytes) -> bool:
    """Whether a server tells this of its replication; one that changes its role cuts its connections."""
    try:
        return word in server.ask("INFO", "replication")
    except OSError:
        return False


async def in_the_end(place: str) -> list[int]:
    """Which numbers are there; on a busy machine, a primary is taken for dead now and then."""
    storage = RedisStorage(place)
    try:
        async with asyncio.timeout(60):
            while True:
                try:
                    assert [finding async for finding in verify(storage)] == []
                    lines = [each async for page in storage.scan(NAME) for each in page]
                    return [int(str(decode_line(each).args[0])) for each in lines]
                except StorageError:
                    await asyncio.sleep(0.2)
    finally:
        await storage.aclose()


def survives(
    place: str,
    primary: _redis.Server,
    replica: _redis.Server,
    directory: Path,
    env: dict[str, str],
    *,
    settled: Callable[[], bool] = lambda: True,
) -> None:
    """Kill the primary in the middle of a run, start it again as a replica of its replica, and look at what is left.

    It comes back without its data, so only when all agree that the failover has `settled`.
    """
    processes = [start(place, number, directory, env, number * MORE) for number in range(PROCESSES)]
    while not all((directory / f"journal-{number}.begun").exists() for number in range(PROCESSES)):
        assert all(process.poll() is None for process in processes)
        time.sleep(0.05)
    time.sleep(SECONDS / 3)
    primary.kill()
    killed = time.monotonic()
    while not (says(replica, b"role:master") and settled()):
        time.sleep(0.05)
    sys.stderr.write(f"\nthe replica took over after {time.monotonic() - killed:.1f} s; ")
    primary.start()
    told = [heard(process, number * MORE) for number, process in enumerate(processes)]
    while not any(says(server, b"state=online") for server in (primary, replica)):
        time.sleep(0.05)
    for number, each in enumerate(told):  # of which the next process hands over what waits in the journal
        each.answered += 1
        heard(start(place, number, directory, env, each.answered, 0.0), each.answered)
    found = asyncio.run(in_the_end(place))
    sys.stderr.write(f"{len(found)} recorded, at most {max(each.spilled for each in told)} in a journal\n")
    assert len(set(found)) == len(found)
    assert set(found) == {number for each in told for number in range(each.first, each.answered + 1)}
    assert all(each.acknowledged > each.first + 100 for each in told)
    assert any(each.spilled for each in told)


def test_a_cluster_whose_primary_dies_has_every_example_once(tmp_path: Path, subprocess_env: dict[str, str]) -> None:
    with _redis.cluster(replicas=3) as nodes:
        slot = int(nodes[0].ask("CLUSTER", "KEYSLOT", f"tanuki:{{{NAME}}}:lines")[1:])
        at = 0 if slot <= 5460 else 1 if slot <= 10922 else 2
        survives(f"{nodes[at - 1].url}?cluster=true&wait=1", nodes[at], nodes[at + 3], tmp_path, subprocess_env)


def test_sentinels_whose_primary_dies_have_every_example_once(tmp_path: Path, subprocess_env: dict[str, str]) -> None:
    with _redis.sentinels() as (place, primary, replica):
        ports = [int(host.rpartition(":")[2]) for host in place.partition("//")[2].partition("/")[0].split(",")]

        def settled() -> bool:
            word = b"\r\n%d\r\n" % replica.port
            return all(word in _redis.ask(port, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", "examples") for port in ports)

        survives(f"{place}?wait=1", primary, replica, tmp_path, subprocess_env, settled=settled)


async def test_a_slot_that_has_moved_is_followed_while_replicas_are_waited_for() -> None:
    with _redis.cluster(replicas=3) as nodes:
        storage = RedisStorage(f"{nodes[0].url}?cluster=true&wait=1")
        await storage.open()
        names = [f"{number}/PATCHES" for number in range(12)]  # in all three parts
        for name in names:
            assert await storage.append(name, [b"one"]) == Appended(1, 0)
        for replica in nodes[3:]:
            replica.ask("CLUSTER", "FAILOVER")
        for primary, replica in zip(nodes, nodes[3:], strict=False):
            while not says(replica, b"role:master"):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            while not says(primary, b"master_link_status:up"):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        for name in names:
            assert await storage.append(name, [b"one", b"two"]) == Appended(1, 1)
            assert await storage.rewrite(name, lambda lines: lines[1:]) == 1
        assert await storage.names() == sorted(names)
        await storage.aclose()
