"""Servers that speak S3, each started once for all tests of a process, at its first use."""

from __future__ import annotations

import atexit
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from functools import cache
from pathlib import Path
from typing import Any

BIN = Path(sys.executable).parent
KEYS = ("testkey", "testsecret")
VERSIONED = b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"


@cache
def session(secret: str = KEYS[1], key: str = KEYS[0]) -> Any:
    import aioboto3

    return aioboto3.Session(aws_access_key_id=key, aws_secret_access_key=secret, region_name="us-east-1")


@cache
def ministack() -> str:
    """A server that honours every condition, and takes any key. Returns its address."""
    port = _free_port()
    directory = tempfile.mkdtemp()
    _start([str(BIN / "ministack")], port, directory, GATEWAY_PORT=str(port), SERVICES="s3")
    address = f"http://127.0.0.1:{port}"
    _send("PUT", f"{address}/data")
    _send("PUT", f"{address}/versioned")
    _send("PUT", f"{address}/versioned?versioning", VERSIONED)
    return address


@cache
def nanio() -> str:
    """A server that ignores all conditions without a word, and knows one key."""
    port = _free_port()
    directory = tempfile.mkdtemp()
    Path(directory, "data").mkdir()
    command = [str(BIN / "nanio"), "serve", "--data-dir", directory, "--host", "127.0.0.1", "--port", str(port)]
    _start(command, port, directory, NANIO_ACCESS_KEY=KEYS[0], NANIO_SECRET_KEY=KEYS[1])
    return f"http://127.0.0.1:{port}"


def place(server: str, *, bucket: str = "data", **more: str) -> str:
    """A URL below which nothing is yet. The bucket `versioned` keeps what was deleted or replaced."""
    options = "".join(f"&{name}={value}" for name, value in more.items())
    return f"s3://{bucket}/{uuid.uuid4().hex}?endpoint={server}&region=us-east-1{options}"


def _start(command: list[str], port: int, directory: str, **environment: str) -> None:
    log = Path(directory, "log.txt")
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env={**os.environ, **environment}, cwd=directory, stdout=output, stderr=output
        )
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    atexit.register(process.wait)
    atexit.register(process.kill)
    for _ in range(400):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if process.poll() is not None:
                break
            time.sleep(0.05)
    raise RuntimeError(f"{command[0]} did not start: {log.read_text()[-2000:]}")


def _send(method: str, url: str, body: bytes | None = None) -> None:
    for _ in range(100):
        try:
            urllib.request.urlopen(urllib.request.Request(url, body, method=method), timeout=10).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"{method} {url} does not succeed")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
