"""Servers that speak S3, each started once for all tests of a process, at its first use.

Two more are tried only where one asks for them, as they are heavy. `TANUKI_TEST_MOTO` is the path of a `moto_server` (of
`pip install 'moto[server]==5.2.5'` in an environment of its own, since it wants another botocore): it looks at signatures.
`TANUKI_TEST_S3` is `s3://bucket/prefix?endpoint=…`, a place for tests in any server of this machine, such as Ceph's
gateway, whose keys are AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. What tests write there is left there.
"""

from __future__ import annotations

import atexit
import json
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

MOTO, GIVEN = os.environ.get("TANUKI_TEST_MOTO"), os.environ.get("TANUKI_TEST_S3")
GIVEN_KEYS = os.environ.get("AWS_ACCESS_KEY_ID", ""), os.environ.get("AWS_SECRET_ACCESS_KEY", "")
BIN = Path(sys.executable).parent
KEYS = ("testkey", "testsecret")
KIND = {"Content-Type": "application/xml"}
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


@cache
def moto() -> tuple[str, tuple[str, str]]:
    """A server that looks at signatures. Returns its address, and the one key that it knows."""
    import boto3

    assert MOTO is not None
    port, directory = _free_port(), tempfile.mkdtemp()
    _start([MOTO, "-H", "127.0.0.1", "-p", str(port)], port, directory, INITIAL_NO_AUTH_ACTION_COUNT="999999")
    address = f"http://127.0.0.1:{port}"
    _send("PUT", f"{address}/data")
    _send("PUT", f"{address}/versioned")
    _send("PUT", f"{address}/versioned?versioning", VERSIONED)
    asked = {"endpoint_url": address, "region_name": "us-east-1"}
    iam: Any = boto3.client("iam", aws_access_key_id="any", aws_secret_access_key="any", **asked)
    iam.create_user(UserName="tests")
    allowed = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
    iam.put_user_policy(UserName="tests", PolicyName="all", PolicyDocument=json.dumps(allowed))
    key = iam.create_access_key(UserName="tests")["AccessKey"]
    _send("POST", f"{address}/moto-api/reset-auth", b"0")  # from now on it looks
    return address, (key["AccessKeyId"], key["SecretAccessKey"])


def others() -> list[str]:
    """Name the servers that were asked for."""
    return [name for name, told in (("moto", MOTO), ("given", GIVEN)) if told]


def opening(server: str) -> dict[str, Any]:
    """What a storage is made of, in a server by its name, below which nothing is yet."""
    if server == "ministack":
        return {"url": place(ministack()), "session": session()}
    if server == "moto":
        address, (key, secret) = moto()
        return {"url": place(address), "session": session(secret, key)}
    assert GIVEN is not None
    where, _, how = GIVEN.partition("?")
    return {"url": f"{where.rstrip('/')}/{uuid.uuid4().hex}?{how}", "session": session(GIVEN_KEYS[1], GIVEN_KEYS[0])}


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
            urllib.request.urlopen(urllib.request.Request(url, body, KIND, method=method), timeout=10).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"{method} {url} does not succeed")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
