"""Keys stay out of messages, logs and tracebacks, wherever a server repeats them."""

from __future__ import annotations

import json
import traceback
from typing import Any

import pytest
from _raw_server import CLOSE, RawServer
from pydantic import TypeAdapter

from tanuki_async._errors import ProviderError, SettingsError
from tanuki_async._pool.http import Connections
from tanuki_async._records import AnswerSchema, Head, Model, Reply, Request, Turn
from tanuki_async.providers._secrets import Headers, secrets_in
from tanuki_async.providers.openai import OpenAICompatible

TypeAdapter(int)  # pydantic looks for its plugins on disk, once; patched functions always come first

KEY = "sk-very-secret-0123456789-0123456789"
MODEL = Model(provider="s", name="m")
REQUEST = Request(
    model=MODEL,
    head=Head(function="f", system="Answer.", answer=AnswerSchema(name="f", schema={"type": "object"}, strict=True)),
    turns=(Turn("user", "hi"),),
)


class Http:
    def __init__(self, reply: Reply) -> None:
        self.reply = reply

    async def send(self, *_: Any, **__: Any) -> Reply:
        return self.reply


def said(message: str, status: int) -> Reply:
    return Reply(status=status, headers={}, body=json.dumps({"error": {"message": message}}).encode())


@pytest.mark.parametrize(
    "given", [{"api_key": KEY}, {"headers": {"Api-Key": KEY}}, {"headers": {"X-Token": f"T {KEY}"}}]
)
@pytest.mark.parametrize(
    "reply",
    [
        said(f"the key {KEY} is wrong", 401),
        said(f"{'y' * 180} {KEY}", 401),
        said(f"the key {KEY} is wrong", 200),
        Reply(status=200, headers={}, body=f"hello {KEY}".encode()),
        Reply(status=302, headers={"location": f"/?key={KEY}"}, body=b""),
        Reply(status=400, headers={"x-request-id": KEY}, body=b'{"error":{"code":"%s","param":"%s"}}' % (b"c", KEY.encode())),
    ],
    ids=["repeated", "where it is clipped", "in a success", "in no answer", "in a redirect", "in other fields"],
)  # fmt: skip
@pytest.mark.parametrize("verb", ["complete", "embed"])
async def test_an_error_never_shows_a_part_of_the_key(given: Any, reply: Reply, verb: str) -> None:
    provider = OpenAICompatible("http://s.invalid/v1", name="s", **given)
    asked = provider.complete(REQUEST, Http(reply)) if verb == "complete" else provider.embed(MODEL, ["a"], Http(reply))
    with pytest.raises(ProviderError) as caught:
        await asked
    shown = f"{caught.value} {caught.value!r} {vars(caught.value)}"
    assert KEY[:10] not in shown


async def test_a_traceback_that_shows_variables_does_not_show_the_key() -> None:
    http = Connections()
    async with RawServer([CLOSE]) as server:
        provider = OpenAICompatible(server.url, name="s", api_key=KEY)
        with pytest.raises(ProviderError) as caught:
            await provider.complete(REQUEST, http)
    await http.aclose()
    assert KEY.encode() in server.requests[0]
    assert KEY[:10] not in _with_variables(caught.value)


async def test_a_key_that_cannot_be_sent_is_not_shown_either() -> None:
    provider = OpenAICompatible("http://s.invalid/v1", api_key=f"{KEY}\n{KEY}")
    with pytest.raises(SettingsError, match="line break") as caught:
        await provider.complete(REQUEST, Http(said("", 200)))
    assert KEY[:10] not in _with_variables(caught.value)


def test_only_headers_that_authorise_are_secret() -> None:
    headers = {"authorization": "Bearer abcdef", "x-api-key": "ghijkl", "x-title": "My program", "cookie": "no"}
    assert secrets_in(headers) == ("abcdef", "ghijkl")


def test_headers_show_their_names() -> None:
    assert repr(Headers(authorization="Bearer abcdef", accept="x")) == "<headers authorization, accept>"


def _with_variables(error: BaseException) -> str:
    """What a crash reporter sends, without the lines of this test."""
    shown = traceback.TracebackException.from_exception(error, capture_locals=True)
    mine = [frame for frame in shown.stack if frame.filename != __file__]
    return (
        "".join(traceback.StackSummary.from_list(mine).format())
        + "".join(shown.format_exception_only())
        + (_with_variables(error.__cause__) if error.__cause__ else "")
    )
