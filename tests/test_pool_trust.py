from __future__ import annotations

import asyncio
import json
import shutil
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from _h2_server import CERTIFICATE, H2Server, tls
from _raw_server import RawServer, ok

import tanuki_async as tanuki
from tanuki_async import ProviderUnreachableError, SettingsError, Tanuki
from tanuki_async._pool.http import Connections
from tanuki_async._pool.retry import is_retryable
from tanuki_async.providers.openai import OpenAICompatible

HASH = "ce275665"  # of the certificate's name, which is how OpenSSL finds it in a directory


@tanuki.patch
async def echo(text: str) -> str:
    """Return the text."""
    ...


async def get(verify: Any, url: str) -> bytes:
    http = Connections(verify=verify)
    try:
        return (await http.send("GET", url, headers={})).body
    finally:
        await http.aclose()


async def test_a_file_or_a_directory_of_authorities_is_trusted(tmp_path: Path) -> None:
    shutil.copy(CERTIFICATE, tmp_path / f"{HASH}.0")
    async with RawServer([ok()], tls=tls("http/1.1")) as server:
        for verify in (CERTIFICATE, str(CERTIFICATE), tmp_path):
            assert await get(verify, server.url) == b"{}"


async def test_it_comes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere.pem")
    async with RawServer([ok()], tls=tls("http/1.1")) as server:
        assert await get(CERTIFICATE, server.url) == b"{}"


async def test_a_file_that_is_not_there_is_told() -> None:
    async with RawServer([ok()], tls=tls("http/1.1")) as server:
        with pytest.raises(SettingsError, match=r"verify= names, '/nowhere\.pem'"):
            await get("/nowhere.pem", server.url)


async def test_a_context_is_used_as_it_is_and_not_changed() -> None:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    async with H2Server(protocols=("h2", "http/1.1")) as modern, RawServer([ok()], tls=tls("http/1.1")) as plain:
        assert await get(context, plain.url.replace("localhost", "127.0.0.1")) == b"{}"
        with pytest.raises(ProviderUnreachableError):  # nothing was offered, so the server expects HTTP/1.1, or says no
            async with asyncio.timeout(1):
                await get(context, modern.url)
        assert modern.requests == []
        context.set_alpn_protocols(["h2"])
        assert await get(context, modern.url) == b"{}"


async def test_a_certificate_of_the_client_is_shown() -> None:
    theirs = tls("http/1.1")
    theirs.load_verify_locations(CERTIFICATE)
    theirs.verify_mode = ssl.CERT_REQUIRED
    ours = ssl.create_default_context(cafile=CERTIFICATE)
    async with RawServer([ok()], tls=theirs) as server:
        with pytest.raises(ProviderUnreachableError):
            await get(ours, server.url)
        ours.load_cert_chain(CERTIFICATE)
        assert await get(ours, server.url) == b"{}"
        assert len(server.requests) == 1


async def test_a_certificate_that_cannot_be_trusted_is_not_tried_again() -> None:
    async with RawServer([ok()], tls=tls("http/1.1")) as server:
        with pytest.raises(
            ProviderUnreachableError, match=r"localhost:\d+.*SSL_CERT_FILE or Tanuki\(verify="
        ) as caught:
            await get(None, server.url)
        assert not is_retryable(caught.value)
        assert server.requests == []


def answer(value: str) -> bytes:
    message = {"role": "assistant", "content": json.dumps({"value": value})}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    return json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage}).encode()


def test_without_the_extra_there_is_no_http_2(subprocess_env: dict[str, str]) -> None:
    code = "import sys; sys.modules['h2'] = None; from tanuki_async._pool.trust import read_trust as r; print(r(None).http2)"
    command = [sys.executable, "-c", code]
    told = subprocess.run(command, env=subprocess_env, capture_output=True, text=True, check=True, timeout=30)
    assert told.stdout == "False\n"


async def test_a_whole_call_goes_over_http_2_with_an_authority_of_the_users() -> None:
    async with H2Server(lambda asked, _, stream: asked.reply(stream, answer("hi"))) as server:
        teacher = OpenAICompatible(server.url, name="far")
        async with Tanuki(storage="memory:", providers=[teacher], teacher_models="far:small", verify=CERTIFICATE):
            assert await asyncio.gather(*(echo(f"hi {number}") for number in range(20))) == ["hi"] * 20
        assert len(server.connections) == 1


async def test_a_whole_call_says_at_once_that_a_certificate_cannot_be_trusted() -> None:
    async with H2Server() as server:
        teacher = OpenAICompatible(server.url, name="far")
        async with Tanuki(storage="memory:", providers=[teacher], teacher_models="far:small"):
            with pytest.raises(ProviderUnreachableError, match="not to be trusted") as caught:
                await echo("hi")
            assert len(caught.value.tried) == 1


@pytest.mark.parametrize("verify", [False, True, 3, b"x"])
def test_what_says_nothing_about_trust_is_refused(verify: Any) -> None:
    with pytest.raises(SettingsError, match=r"verify is the path.*check_hostname to False.*ssl\.CERT_NONE"):
        Tanuki(verify=verify)


def test_a_client_of_the_users_has_trust_of_its_own() -> None:
    with pytest.raises(SettingsError, match="give it to the client"):
        Tanuki(verify="x", http_client=object())  # type: ignore[typeddict-item]
