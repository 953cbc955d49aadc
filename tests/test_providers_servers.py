"""What is special about each server that speaks OpenAI's format, in one table per question."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import TypeAdapter

import tanuki_async as tanuki
from tanuki_async._errors import (
    AuthenticationError,
    ProviderError,
    ProviderUnavailableError,
    QuotaExceededError,
    RateLimitedError,
    RequestRejectedError,
    SettingsError,
)
from tanuki_async._pool.http import Connections
from tanuki_async._records import AnswerSchema, Completion, GenerationParams, Head, Model, Reply, Request, Turn
from tanuki_async.providers._errors import error_from
from tanuki_async.providers._servers import SERVERS
from tanuki_async.providers._thoughts import Thoughts, spoken
from tanuki_async.providers.anyscale import Anyscale
from tanuki_async.providers.openai import OpenAI, OpenAICompatible
from tanuki_async.providers.together import TogetherAI
from tanuki_async.testing import Fault, LoopbackServer, Value

TypeAdapter(int)  # pydantic looks for its plugins on disk, once; patched functions always come first

FIXTURES = Path(__file__).parent / "fixtures"
GOOD = '{"value":"good"}'
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"value": {"type": "string"}},
    "required": ["value"],
    "additionalProperties": False,
}
HEAD = Head(
    function="f",
    system="Answer in JSON.",
    answer=AnswerSchema(name="f", schema=SCHEMA, strict=True),
    params=GenerationParams(temperature=0.0, seed=7, max_new_tokens=9),
)


def fixture(name: str) -> Any:
    return json.loads((FIXTURES / f"{name}.json").read_text())


class Http:
    """Answers from a list, and keeps what was sent."""

    def __init__(self, *replies: Reply) -> None:
        self.replies = list(replies)
        self.sent: list[tuple[str, dict[str, str], dict[str, Any]]] = []

    async def send(self, method: str, url: str, *, headers: Any, body: bytes | None = None) -> Reply:
        self.sent.append((url, dict(headers), json.loads(body or b"null")))
        return self.replies.pop(0)


def reply_of(body: Any, status: int = 200, **headers: str) -> Reply:
    raw = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    return Reply(status=status, headers={name.replace("_", "-"): value for name, value in headers.items()}, body=raw)


def ask(model: Model) -> Request:
    return Request(model=model, head=HEAD, turns=(Turn("user", "hi"),))


# Where they are and what they are sent


@pytest.mark.parametrize(
    ("name", "url", "token_field", "key"),
    [
        ("gemini", "https://generativelanguage.googleapis.com/v1beta/openai/chat/completions", "max_tokens", True),
        ("groq", "https://api.groq.com/openai/v1/chat/completions", "max_completion_tokens", True),
        ("openrouter", "https://openrouter.ai/api/v1/chat/completions", "max_tokens", True),
        ("vllm", "http://localhost:8000/v1/chat/completions", "max_tokens", False),
        ("ollama", "http://localhost:11434/v1/chat/completions", "max_tokens", False),
        ("llamacpp", "http://localhost:8080/v1/chat/completions", "max_tokens", False),
        ("lmstudio", "http://localhost:1234/v1/chat/completions", "max_tokens", False),
    ],
)
async def test_each_is_found_at_its_address_with_its_key_and_sent_only_what_all_know(
    name: str, url: str, token_field: str, key: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if key:
        monkeypatch.setenv(f"{name.upper()}_API_KEY", "the-key")
    provider, http = OpenAICompatible.known(name), Http(reply_of({"choices": [{"message": {"content": GOOD}}]}))
    await provider.complete(ask(provider.model("some-model")), http)
    ((sent_to, headers, body),) = http.sent
    assert sent_to == url
    assert headers.get("authorization") == ("Bearer the-key" if key else None)
    assert set(body) == {"model", "messages", "temperature", "seed", token_field, "response_format"}
    assert body["messages"][0]["role"] == "system"
    assert None not in body.values()


def test_every_known_server_is_in_the_table_above() -> None:
    assert len(SERVERS) == 7


def test_a_known_server_is_recognised_at_its_address() -> None:
    groq = OpenAICompatible("https://api.groq.com/openai/v1", name="mine")
    assert groq.model("m").token_field == "max_completion_tokens"
    assert OpenAICompatible("http://localhost:8000/v1").model("m").token_field == "max_tokens"


async def test_a_server_of_ones_own_is_given_a_key_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "the-key")
    provider, http = OpenAICompatible.known("vllm"), Http(reply_of({"choices": [{"message": {"content": GOOD}}]}))
    await provider.complete(ask(provider.model("m")), http)
    assert http.sent[0][1]["authorization"] == "Bearer the-key"


@pytest.mark.parametrize("name", [name for name, server in SERVERS.items() if not server.local])
async def test_a_key_that_is_missing_is_named_with_the_two_ways_to_give_it(name: str) -> None:
    provider, server = OpenAICompatible.known(name), SERVERS[name]
    with pytest.raises(SettingsError) as caught:
        await provider.complete(ask(provider.model("m")), Http())
    written = f"Tanuki(providers=[OpenAICompatible('{server.url}', name='{name}', api_key=…)])"
    assert f"no API key for {server.title}: set {name.upper()}_API_KEY, or pass {written}" in str(caught.value)


async def test_a_local_server_that_wants_a_key_after_all_says_how_to_give_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    provider = OpenAICompatible.known("vllm")
    with pytest.raises(AuthenticationError, match="no key was sent; set VLLM_API_KEY"):
        await provider.complete(ask(provider.model("m")), Http(reply_of({"error": "Unauthorized"}, 401)))


def test_geminis_models_are_in_the_table() -> None:
    assert OpenAICompatible.known("gemini").model("gemini-3.5-flash-lite").price_input == 0.30


@tanuki.patch
async def classify(text: str) -> Literal["good", "bad"]:
    """Classify a message."""


async def test_a_model_string_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    async with LoopbackServer(Value("good")) as server:
        monkeypatch.setenv("OLLAMA_BASE_URL", server.url)
        async with tanuki.Tanuki(storage="memory:", teacher_models="ollama:qwen3"):
            assert await classify("I love it") == "good"
        assert server.requests[0].body["model"] == "qwen3"


# What they answer


def said(content: Any = GOOD, finish: Any = "stop", usage: Any = None, **message: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": content, **message}, "finish_reason": finish}
    return {"model": "m", "choices": [choice], "usage": usage or {"prompt_tokens": 3, "completion_tokens": 2}}


@pytest.mark.parametrize(
    ("server", "body"),
    [
        ("vllm", fixture("anyscale/chat_success_structured")["body"]),
        ("vllm: thoughts beside", said(reasoning="hm", tool_calls=[], stop_reason=None, token_ids=None)),
        ("ollama: thoughts before", said("<think>\nhm {}\n</think>\n\n" + GOOD)),
        ("ollama: no thoughts", said("<think>\n\n</think>\n" + GOOD)),
        ("llama.cpp", {**said(reasoning_content="hm"), "timings": {"predicted_per_second": 42.0}}),
        ("lm studio", {**said(), "stats": {}, "system_fingerprint": "qwen"}),
        ("groq", {**said(usage={"queue_time": 0.05, "prompt_tokens": 3, "total_time": 0.1}), "x_groq": {"id": "r"}}),
        ("openrouter", {**said(reasoning=None, refusal=None), "provider": "DeepInfra"}),
        ("openrouter: other words for the end", said(finish="end_turn")),
        ("together: eos", said(finish="eos", tool_calls=[])),
        ("together", fixture("together/chat_reasoning")["body"]),
        ("gemini", fixture("gemini/chat_success_structured")["body"]),
        ("gemini: a list", said([{"type": "text", "text": GOOD}])),
        ("no usage", {"choices": [{"message": {"content": GOOD}}]}),
        ("no end", said(finish=None)),
        ("a number as the end", said(finish=3)),
    ],
)
async def test_each_of_their_answers_is_read(server: str, body: Any) -> None:
    provider = OpenAICompatible("http://host.invalid/v1")
    completion = await provider.complete(ask(provider.model("m")), Http(reply_of(body)))
    assert completion.text.lower() == GOOD
    assert not completion.truncated


async def test_thoughts_that_never_end_are_no_answer() -> None:
    provider = OpenAICompatible("http://host.invalid/v1")
    completion = await provider.complete(ask(provider.model("m")), Http(reply_of(said("<think>{", "length"))))
    assert (completion.text, completion.truncated) == ("", True)


async def test_together_is_sent_its_own_fields_and_reads_its_headers() -> None:
    told = fixture("together/chat_success_structured")
    provider, http = TogetherAI("key"), Http(reply_of(told["body"], **told["headers"]))
    model = replace(provider.model("Qwen/Qwen3.5-9B"), reasoning_effort="low")
    completion = await provider.complete(ask(model), http)
    sent = http.sent[0][2]
    assert (sent["max_tokens"], sent["reasoning_effort"]) == (9, "low")
    assert "max_completion_tokens" not in sent
    assert completion.rate is not None
    assert (completion.rate.requests, completion.rate.seconds) == (10, 1.0)


@pytest.mark.parametrize(
    ("whole", "left"),
    [
        ("<think>a</think>\n{}", "{}"),
        ("  <think>a{}</think>b</think>c", "b</think>c"),
        ("{} <think>a</think>", "{} <think>a</think>"),
        ("<thinker>", "<thinker>"),
        ("<think>never ends", ""),
        ("", ""),
        ("plain", "plain"),
        ("a</think>b", "a</think>b"),
    ],
)
def test_thoughts_are_cut_off_however_the_text_is_cut(whole: str, left: str) -> None:
    assert spoken(whole) == left
    for size in range(1, len(whole) + 1):
        thoughts = Thoughts()
        pieces = [thoughts.feed(whole[start : start + size]) for start in range(0, len(whole), size)]
        assert "".join(pieces) == left


# How they say no

VLLM_404 = {"object": "error", "message": "The model `m` does not exist.", "type": "NotFoundError", "code": 404}
GROQ_413 = {"error": {"message": "Request too large for model `m`", "type": "tokens", "code": "rate_limit_exceeded"}}
LOADING = {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}
TOO_LONG = {"error": {"code": 400, "message": "the request exceeds the available context size", "n_ctx": 4096}}
NO_CREDIT = {"error": {"code": 402, "message": "Insufficient credits", "metadata": {"x": 1}}}
UPSTREAM = {"error": {"code": 429, "message": "Provider returned error", "metadata": {"raw": "busy"}}}


@pytest.mark.parametrize(
    ("server", "status", "body", "kind", "words"),
    [
        ("vllm", 404, VLLM_404, RequestRejectedError, "does not exist"),
        ("ollama", 404, {"error": {"message": "model 'm' not found"}}, RequestRejectedError, "not found"),
        ("ollama: a text", 404, {"error": "model 'm' not found"}, RequestRejectedError, "not found"),
        ("llama.cpp", 503, LOADING, ProviderUnavailableError, "Loading model"),
        ("llama.cpp", 400, TOO_LONG, RequestRejectedError, "context size"),
        ("lm studio", 400, {"error": "No models loaded."}, RequestRejectedError, "No models loaded"),
        ("groq", 413, GROQ_413, RequestRejectedError, "too large"),
        ("openrouter", 402, NO_CREDIT, QuotaExceededError, "Insufficient credits"),
        ("openrouter", 200, UPSTREAM, RateLimitedError, "Provider returned error"),
        ("together", 402, fixture("together/error_402_credit")["body"], QuotaExceededError, "Credit limit"),
        ("gemini", 400, fixture("gemini/errors")["400_array"]["body"], RequestRejectedError, "invalid argument"),
        ("gemini", 429, fixture("gemini/errors")["429"]["body"], RateLimitedError, "quota"),
        ("gemini", 500, fixture("gemini/errors")["500"]["body"], ProviderUnavailableError, "internal error"),
        ("gemini", 503, fixture("gemini/errors")["503"]["body"], ProviderUnavailableError, "overloaded"),
        ("a proxy", 503, "upstream connect error", ProviderUnavailableError, "upstream connect error"),
        ("fastapi", 422, {"detail": [{"loc": ["body"], "msg": "x"}]}, RequestRejectedError, "detail"),
    ],
)
async def test_each_of_their_errors_has_its_kind(
    server: str, status: int, body: Any, kind: type[ProviderError], words: str
) -> None:
    provider = OpenAICompatible("http://host.invalid/v1")
    with pytest.raises(ProviderError) as caught:
        await provider.complete(ask(provider.model("m")), Http(reply_of(body, status), reply_of("", 500)))
    assert type(caught.value) is kind
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("headers", "seconds"), [({}, 23.0), ({"retry-after": "2"}, 2.0), ({"retry-after-ms": "0"}, 0.0)]
)
def test_google_tells_within_the_error_how_long_to_wait(headers: dict[str, str], seconds: float) -> None:
    body = json.dumps(fixture("gemini/errors")["429"]["body"]).encode()
    error = error_from(Reply(status=429, headers=headers, body=body), provider="gemini", model="m")
    assert error.retry_after == seconds


# What a 404 is told with


@pytest.mark.parametrize(
    ("there", "words"),
    [
        (["qwen3:8b", "llama3.2"], "the server has: qwen3:8b, llama3.2"),
        ([f"model-{number}" for number in range(20)], "and 12 more"),
    ],
)
async def test_a_model_that_is_not_there_brings_the_list_of_those_that_are(there: list[str], words: str) -> None:
    absent = Fault.status(404, message="model 'qwen3' not found", code="model_not_found")
    async with LoopbackServer([absent, absent], models=there) as server:
        provider, http = OpenAICompatible(server.url), Connections()
        with pytest.raises(RequestRejectedError) as caught:
            await provider.complete(ask(provider.model("qwen3")), http)
        assert words in str(caught.value)
        assert (caught.value.code, caught.value.status) == ("model_not_found", 404)
        with pytest.raises(RequestRejectedError, match="the server has"):
            async for _ in provider.stream(ask(provider.model("qwen3")), http):
                pass
        await http.aclose()


async def test_an_embedding_model_that_is_not_there_brings_the_list_too() -> None:
    async with LoopbackServer(embedding=[Fault.status(404, message="no such model")], models=["e5"]) as server:
        provider, http = OpenAICompatible(server.url), Connections()
        with pytest.raises(RequestRejectedError, match="the server has: e5"):
            await provider.embed(provider.model("e6"), ["x"], http)
        await http.aclose()


async def test_a_server_without_a_list_says_what_it_said() -> None:
    provider = OpenAICompatible("http://host.invalid/v1")
    for answer in (reply_of("no", 500), reply_of("[]"), reply_of({"data": [7]}), reply_of({"data": [{"id": "m"}]})):
        with pytest.raises(RequestRejectedError) as caught:
            await provider.complete(ask(provider.model("m")), Http(reply_of(VLLM_404, 404), answer))
        assert str(caught.value).startswith("openai_compatible:m: The model `m` does not exist. (HTTP 404)")


async def test_an_address_where_nothing_is_is_doubted() -> None:
    provider = OpenAICompatible("http://host.invalid/api/?x=1")
    with pytest.raises(RequestRejectedError, match=r"is http://host\.invalid/api/? the base URL\? Most end in /v1"):
        await provider.complete(ask(provider.model("m")), Http(reply_of({"detail": "Not Found"}, 404)))


async def test_openai_itself_is_not_asked_for_its_long_list() -> None:
    answer = fixture("openai/error_404_model_not_found")
    with pytest.raises(RequestRejectedError, match="404"):
        await OpenAI("sk-x").complete(ask(OpenAI("sk-x").model("gpt-99")), Http(reply_of(answer["body"], 404)))


@pytest.mark.parametrize(
    ("body", "names"),
    [
        (fixture("openai/models_list")["body"], None),
        (fixture("anyscale/models_list")["body"], ["my-qwen"]),
        ([{"id": "a"}, {"id": "b"}], ["a", "b"]),
        ({"models": [{"name": "a"}]}, ["a"]),
        ({"data": None}, []),
        ("no JSON", []),
    ],
)
async def test_the_list_of_models_is_read(body: Any, names: list[str] | None) -> None:
    provider = Anyscale("key", "http://host.invalid/v1")
    found = await provider.models(Http(reply_of(body)))
    assert found == (names if names is not None else [row["id"] for row in body["data"]])


async def test_a_stream_of_openrouter_with_its_comments_is_read() -> None:
    events = [
        ": OPENROUTER PROCESSING",
        'data: {"choices":[{"delta":{"role":"assistant","content":"<think>"}}],"provider":"x"}',
        'data: {"choices":[{"delta":{"content":"[1]</think>\\n\\n"}}]}',
        ": OPENROUTER PROCESSING",
        'data: {"choices":[{"delta":{"content":"{}"},"finish_reason":"stop","native_finish_reason":"end_turn"}]}',
        "data: [DONE]",
    ]
    async with LoopbackServer([Reply(status=200, headers={}, body="\n\n".join([*events, ""]).encode())]) as server:
        provider, http = OpenAICompatible(server.url), Connections()
        pieces = [piece async for piece in provider.stream(ask(provider.model("m")), http)]
        await http.aclose()
    assert pieces[0] == "{}"
    assert isinstance(pieces[1], Completion)
    assert pieces[1].text == "{}"
