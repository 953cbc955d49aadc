from __future__ import annotations

import asyncio
import base64
import json
import socket
import struct
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from pydantic import Field

import tanuki_async as tanuki
from tanuki_async import Model, RefusalError, _records
from tanuki_async._pool.http import Connections
from tanuki_async._records import AnswerSchema, Head, Request, Turn
from tanuki_async.providers.anthropic import Anthropic
from tanuki_async.providers.bedrock import Bedrock
from tanuki_async.providers.openai import OpenAI, OpenAICompatible
from tanuki_async.testing import Answer, ChatRequest, EmbeddingRequest, Fault, LoopbackServer, ScriptError, Value

SCHEMA = {
    "type": "object",
    "properties": {"value": {"type": "string", "enum": ["good", "bad"]}},
    "required": ["value"],
    "additionalProperties": False,
}


@tanuki.patch(max_repairs=0)
async def rate(text: str) -> Annotated[int, Field(ge=3, le=5)]:
    """Rate a text."""
    ...


@tanuki.patch(max_repairs=0)
async def pick(text: str) -> Annotated[list[str], Field(min_length=2)]:
    """Pick words."""
    ...


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=5, trust_env=False) as client:
        yield client


def question(text: str = '{"text": "hi"}', **fields: Any) -> dict[str, Any]:
    wanted = {"type": "json_schema", "json_schema": {"name": "classify", "strict": True, "schema": SCHEMA}}
    messages = [{"role": "developer", "content": "Classify."}, {"role": "user", "content": text}]
    return {"model": "gpt-6-luna", "messages": messages, "response_format": wanted, **fields}


async def ask(client: httpx.AsyncClient, server: LoopbackServer, **fields: Any) -> httpx.Response:
    return await client.post(f"{server.url}/chat/completions", json=question(**fields))


def plain_model(provider: str, structured: Any = "none", wire_format: str | None = None) -> Model:
    dialect: Any = "openai_strict" if provider == "openai_compatible" else "anthropic"
    return Model(
        provider=provider,
        name="gpt-6-luna",
        structured=structured,
        schema_dialect=dialect,
        wire_format=wire_format,
        price_input=0,
        price_output=0,
    )


def content(response: httpx.Response) -> Any:
    return response.json()["choices"][0]["message"]["content"]


async def test_the_pieces_of_a_stream_wait_for_no_acknowledgement(client: httpx.AsyncClient) -> None:
    async with LoopbackServer("good") as server:
        await ask(client, server, stream=True)
        (connection,) = server._open
        accepted = connection._transport.get_extra_info("socket")
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_an_answerer_sees_what_was_asked_and_its_value_gets_the_envelope(client: httpx.AsyncClient) -> None:
    seen: list[ChatRequest] = []

    def answer(request: ChatRequest) -> Value:
        seen.append(request)
        return Value("good")

    async with LoopbackServer(answer) as server:
        response = await ask(client, server, seed=7)
    assert json.loads(content(response)) == {"value": "good"}
    (request,) = seen
    assert (request.model, request.schema_name, request.schema) == ("gpt-6-luna", "classify", SCHEMA)
    assert request.arguments == {"text": "hi"}
    assert request.system == "Classify."
    assert request.body["seed"] == 7
    assert request.headers["content-type"] == "application/json"
    assert list(server.requests) == [request]


async def test_a_str_is_the_content_as_it_is(client: httpx.AsyncClient) -> None:
    async with LoopbackServer("I think: good") as server:
        assert content(await ask(client, server)) == "I think: good"


async def test_an_async_answerer_is_awaited(client: httpx.AsyncClient) -> None:
    async def answer(request: ChatRequest) -> object:
        await asyncio.sleep(0)
        return ["a", 1]

    async with LoopbackServer(answer) as server:
        assert json.loads(content(await ask(client, server))) == {"value": ["a", 1]}


async def test_without_an_answerer_the_plainest_fitting_value_is_answered(client: httpx.AsyncClient) -> None:
    async with LoopbackServer() as server:
        assert json.loads(content(await ask(client, server))) == {"value": "good"}


@pytest.mark.parametrize(
    "provider",
    [
        lambda url: OpenAI("key", url),
        lambda url: OpenAICompatible(url, models={"gpt-6-luna": plain_model("openai_compatible")}),
        lambda url: Anthropic("key", url, models={"gpt-6-luna": plain_model("anthropic", "json_schema")}),
        lambda url: Anthropic("key", url, models={"gpt-6-luna": plain_model("anthropic", "tool")}),
        lambda url: Bedrock("key", base_url=url, models={"gpt-6-luna": plain_model("bedrock", "json_schema")}),
        lambda url: Bedrock("key", base_url=url, models={"gpt-6-luna": plain_model("bedrock", "tool")}),
        lambda url: Bedrock("key", base_url=url, models={"gpt-6-luna": plain_model("bedrock", "none", "titan")}),
    ],
    ids=["openai", "compatible", "anthropic", "anthropic tool", "converse", "converse tool", "titan"],
)
async def test_the_plainest_value_keeps_to_constraints_that_a_format_leaves_out(provider: Any) -> None:
    async with LoopbackServer() as server:
        made = provider(server.url)
        async with tanuki.Tanuki(storage="memory:", providers=[made], teacher_models=[f"{made.name}:gpt-6-luna"]):
            assert await rate("x") == 3
            assert len(await pick("x")) == 2


async def test_titan_text_is_a_chat_and_its_vectors_are_not() -> None:
    provider = Bedrock("key", base_url="http://127.0.0.1:1")
    model, vectors = provider.model("amazon.titan-text-express-v1"), provider.model("amazon.titan-embed-text-v2:0")
    answer = AnswerSchema(name="f", schema=SCHEMA, strict=True)
    head = Head(function="f", system="Classify.", answer=answer, examples=(Turn("user", "a"), Turn("assistant", "b")))
    http = Connections()
    async with LoopbackServer([Answer("good"), Fault.cut_off("go"), Fault.refusal()]) as server:
        provider = Bedrock("key", base_url=server.url)
        asked = Request(model=model, head=head, turns=(Turn("user", '{"text":"hi"}'),))
        whole, cut = [await provider.complete(asked, http) for _ in range(2)]
        with pytest.raises(RefusalError):
            await provider.complete(asked, http)
        embedded, _ = await provider.embed(vectors, ["hi"], http)
        first = server.requests[0]
        assert isinstance(first, ChatRequest)
        assert (first.model, first.system, first.arguments) == (model.name, "Classify.", {"text": "hi"})
        assert [message["role"] for message in first.messages] == ["system", "user", "assistant", "user"]
    await http.aclose()
    assert (whole.text, whole.truncated, whole.usage.output_tokens) == ("good", False, 1)
    assert (cut.text, cut.truncated) == ("go", True)
    assert len(embedded[0]) == 16


async def test_a_format_of_bedrock_that_the_server_does_not_speak_is_refused(client: httpx.AsyncClient) -> None:
    async with LoopbackServer() as server:
        response = await client.post(f"{server.url}/model/meta.llama3/invoke", json={"prompt": "hi"})
    assert response.status_code == 400
    assert "prompt" in response.json()["error"]["message"]


async def test_usage_is_counted_or_told(client: httpx.AsyncClient) -> None:
    told = _records.Usage(requests=1, input_tokens=9, cached_tokens=4, output_tokens=3, reasoning_tokens=2)
    async with LoopbackServer(["x" * 40, Answer("x", usage=told)]) as server:
        counted = (await ask(client, server)).json()["usage"]
        assert counted["completion_tokens"] == 10
        assert counted["prompt_tokens"] > 8
        assert counted["total_tokens"] == counted["prompt_tokens"] + 10
        usage = (await ask(client, server)).json()["usage"]
    assert (usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"]) == (9, 4)
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 2


async def test_a_refusal_and_a_cut_off_answer_are_good_http(client: httpx.AsyncClient) -> None:
    async with LoopbackServer([Fault.refusal("no"), Fault.cut_off('{"val')]) as server:
        refused = (await ask(client, server)).json()["choices"][0]
        assert (refused["message"]["content"], refused["message"]["refusal"]) == (None, "no")
        assert refused["finish_reason"] == "stop"
        cut = (await ask(client, server)).json()["choices"][0]
        assert (cut["message"]["content"], cut["finish_reason"]) == ('{"val', "length")


async def test_error_statuses_carry_openai_bodies_and_headers(client: httpx.AsyncClient) -> None:
    faults = [Fault.status(429, retry_after=1.5, retry_after_ms=34), Fault.quota(), Fault.status(503), Fault.html()]
    async with LoopbackServer(faults) as server:
        limited = await ask(client, server)
        assert (limited.status_code, limited.headers["retry-after"], limited.headers["retry-after-ms"]) == (
            429, "1.5", "34",
        )  # fmt: skip
        assert limited.json()["error"]["code"] == "rate_limit_exceeded"
        assert (await ask(client, server)).json()["error"]["type"] == "insufficient_quota"
        assert (await ask(client, server)).json()["error"]["type"] == "server_error"
        page = await ask(client, server)
        assert (page.status_code, page.headers["content-type"][:9]) == (502, "text/html")


async def test_bodies_may_be_empty_of_choices_or_end_in_the_middle_of_their_json(client: httpx.AsyncClient) -> None:
    async with LoopbackServer([Fault.empty_choices(), Fault.truncated_json()]) as server:
        assert (await ask(client, server)).json()["choices"] == []
        with pytest.raises(ValueError, match="Unterminated"):
            (await ask(client, server)).json()


@pytest.mark.parametrize("fault", [Fault.cut_midway(), Fault.disconnect()])
async def test_a_cut_connection_is_a_protocol_error_and_leaves_nothing_in_flight(
    client: httpx.AsyncClient, fault: Fault
) -> None:
    async with LoopbackServer([fault, "ok"]) as server:
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            await ask(client, server)
        assert content(await ask(client, server)) == "ok"
        assert server.in_flight == 0


async def test_a_hung_answer_lasts_until_the_client_goes_away(client: httpx.AsyncClient) -> None:
    async with LoopbackServer([Fault.hang(), "ok"]) as server:
        asking = asyncio.create_task(ask(client, server))
        await server.wait_requests(1)
        assert server.in_flight == 1
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert content(await ask(client, server)) == "ok"
        assert server.in_flight == 0


async def test_closing_the_server_cuts_what_hangs(client: httpx.AsyncClient) -> None:
    async with LoopbackServer(Fault.hang()) as server:
        asking = asyncio.create_task(ask(client, server))
        await server.wait_requests(1)
    with pytest.raises(httpx.TransportError):
        await asking
    await server.aclose()


async def test_a_script_that_is_used_up_is_answered_400_and_raised_on_exit(client: httpx.AsyncClient) -> None:
    with pytest.raises(ScriptError, match="has 1 answers; this is request 2"):  # noqa: PT012  # raised by the exit
        async with LoopbackServer(["only"]) as server:
            await ask(client, server)
            assert (await ask(client, server)).status_code == 400


async def test_steps_left_over_are_reported() -> None:
    async with LoopbackServer(["a", "b"]) as server:
        with pytest.raises(ScriptError, match="2 scripted answers were never asked for"):
            server.assert_done()


async def test_what_an_answerer_raises_comes_out_of_the_server(client: httpx.AsyncClient) -> None:
    async def answer(request: ChatRequest) -> str:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        async with LoopbackServer(answer) as server:
            assert (await ask(client, server)).json()["error"]["code"] == "loopback_answer_failed"


async def test_an_answer_that_cannot_be_encoded_comes_out_too(client: httpx.AsyncClient) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        async with LoopbackServer(lambda _: {"a": object()}) as server:
            await ask(client, server)


async def test_one_connection_carries_many_requests(client: httpx.AsyncClient) -> None:
    async with LoopbackServer("x") as server:
        for _ in range(5):
            await ask(client, server)
        assert (server.served, server.connections, server.connections_made) == (5, 1, 1)


async def test_requests_at_once_are_counted_and_delayed_together(client: httpx.AsyncClient) -> None:
    async with LoopbackServer("x", latency=0.05) as server:
        began = asyncio.get_running_loop().time()
        await asyncio.gather(*(ask(client, server) for _ in range(10)))
        assert asyncio.get_running_loop().time() - began < 0.5
        assert (server.max_in_flight, server.in_flight) == (10, 0)


async def test_embeddings_come_in_order_and_near_texts_are_near(client: httpx.AsyncClient) -> None:
    texts = ["the cat sat", "the cat ran", "prices fell"]
    async with LoopbackServer() as server:
        body = {"model": "text-embedding-3-small", "input": texts}
        floats = (await client.post(f"{server.url}/embeddings", json=body)).json()
        packed = (await client.post(f"{server.url}/embeddings", json={**body, "encoding_format": "base64"})).json()
    assert [row["index"] for row in floats["data"]] == [0, 1, 2]
    a, b, c = (row["embedding"] for row in floats["data"])
    assert sum(x * x for x in a) == pytest.approx(1)
    assert sum(x * y for x, y in zip(a, b, strict=True)) > sum(x * y for x, y in zip(a, c, strict=True))
    unpacked = struct.unpack(f"<{len(a)}f", base64.b64decode(packed["data"][0]["embedding"]))
    assert unpacked == pytest.approx(a, abs=1e-6)


async def test_embeddings_can_be_scripted_and_sized(client: httpx.AsyncClient) -> None:
    def embed(request: EmbeddingRequest) -> list[list[float]]:
        return [[float(len(text))] for text in request.texts]

    async with LoopbackServer(embedding=embed) as server:
        answer = await client.post(f"{server.url}/embeddings", json={"model": "m", "input": ["abc"]})
        assert answer.json()["data"][0]["embedding"] == [3.0]
    async with LoopbackServer() as server:
        body = {"model": "text-embedding-3-small", "input": "abc", "dimensions": 4}
        answer = await client.post(f"{server.url}/embeddings", json=body)
        assert len(answer.json()["data"][0]["embedding"]) == 4


async def test_models_are_listed_and_unknown_paths_are_not_found(client: httpx.AsyncClient) -> None:
    async with LoopbackServer(models=["a", "b"]) as server:
        listed = (await client.get(f"{server.url}/models")).json()
        assert [model["id"] for model in listed["data"]] == ["a", "b"]
        assert (await client.get(f"{server.url}/nothing")).status_code == 404


async def test_a_wrong_key_is_refused(client: httpx.AsyncClient) -> None:
    async with LoopbackServer("x", api_key="right") as server:
        assert (await ask(client, server)).json()["error"]["code"] == "invalid_api_key"
        client.headers["authorization"] = "Bearer right"
        assert (await ask(client, server)).status_code == 200


async def test_what_is_not_json_is_refused(client: httpx.AsyncClient) -> None:
    async with LoopbackServer("x") as server:
        answer = await client.post(f"{server.url}/chat/completions", content=b"{")
        assert answer.status_code == 400


async def test_a_stream_is_sent_in_chunks_as_openai_does(client: httpx.AsyncClient) -> None:
    async with LoopbackServer("an answer of some length") as server:
        answer = await ask(client, server, stream=True, stream_options={"include_usage": True})
        *events, last = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
        chunks = [json.loads(event) for event in events]
    assert last == "[DONE]"
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks[:-1]]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert [delta.get("content") for delta in deltas[1:]] == ["an answer of", " some length", None]
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert (chunks[-1]["choices"], chunks[-1]["usage"]["completion_tokens"]) == ([], 6)


async def test_a_server_may_refuse_to_stream(client: httpx.AsyncClient) -> None:
    async with LoopbackServer("x", streams=False) as server:
        assert (await ask(client, server, stream=True)).json()["error"]["param"] == "stream"


async def test_texts_that_come_one_by_one_are_one_answer_where_no_stream_is_asked_for(
    client: httpx.AsyncClient,
) -> None:
    async def answer(_: ChatRequest) -> AsyncIterator[str]:
        yield "a"
        yield "b"

    async with LoopbackServer(answer) as server:
        assert (await ask(client, server)).json()["choices"][0]["message"]["content"] == "ab"


async def test_a_strict_server_refuses_as_openai_would(client: httpx.AsyncClient) -> None:
    async with LoopbackServer("x", strict=True) as server:
        assert (await ask(client, server)).status_code == 200
        answer = await ask(client, server, temperature=0.5)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "temperature")


async def test_other_paths_can_be_routed(client: httpx.AsyncClient) -> None:
    async with LoopbackServer() as server:
        server.route("POST", "/v1/files", lambda request: {"id": "file-1", "size": len(request.body)})
        answer = await client.post(f"{server.url}/files", content=b"12345")
        assert answer.json() == {"id": "file-1", "size": 5}


FIXTURES: list[dict[str, Any]] = [
    {"status": 429, "headers": {"retry-after-ms": "34"}, "body": {"error": {"code": "rate_limit_exceeded"}}},
    {"request": {"method": "GET", "path": "/v1/files/f"}, "status": 200, "headers": {}, "body": {"id": "f"}},
    {"request": {"method": "GET", "path": "/v1/batches/b"}, "status": 200, "bodies": {"done": {"status": "done"}}},
    {"request": {"method": "POST", "path": "/v1/embeddings"}, "status": 200, "body": {"data": []}},
    {"status": 200, "headers": {"content-type": "text/event-stream"}, "sse": ["data: 1", "data: [DONE]"]},
]


@pytest.mark.parametrize("fixture", FIXTURES)
async def test_a_recorded_answer_is_replayed_once(client: httpx.AsyncClient, fixture: dict[str, Any]) -> None:
    request = fixture.get("request", {"method": "POST", "path": "/v1/chat/completions"})
    async with LoopbackServer("x") as server:
        server.replay(fixture, body="done" if "bodies" in fixture else None)
        url = server.url.removesuffix("/v1") + request["path"]
        answer = await client.request(request["method"], url, json={"model": "m", "messages": [], "input": []})
        server.assert_done()
    assert answer.status_code == fixture["status"]
    if "sse" in fixture:
        assert answer.text == "data: 1\n\ndata: [DONE]\n\n"
    else:
        assert answer.json() == fixture.get("body", {"status": "done"})


def test_a_server_in_a_thread_serves_a_program_without_a_loop() -> None:
    with LoopbackServer.in_thread(lambda request: request.text) as server, httpx.Client(trust_env=False) as client:
        answer = client.post(f"{server.url}/chat/completions", json=question("hello"))
        assert content(answer) == "hello"
    assert not [thread for thread in threading.enumerate() if thread.name == "tanuki-loopback"]


def test_a_server_in_a_thread_tells_when_requests_came() -> None:
    async def story(server: LoopbackServer) -> None:
        async with httpx.AsyncClient() as client:
            asking = asyncio.create_task(ask(client, server))
            await server.wait_requests(1)
            await asking

    with LoopbackServer.in_thread("x") as server:  # outside of a loop, which starting a thread would block
        asyncio.run(story(server))


async def test_the_log_of_requests_can_be_bounded(client: httpx.AsyncClient) -> None:
    async with LoopbackServer("x", keep=2) as server:
        for _ in range(3):
            await ask(client, server)
        assert (len(server.requests), server.served) == (2, 3)


async def test_a_server_that_is_not_open_has_no_address() -> None:
    with pytest.raises(RuntimeError, match="async with"):
        _ = LoopbackServer().url


def test_nothing_is_written_to_the_tree() -> None:
    assert not (Path(__file__).parent.parent / ".align").exists()
