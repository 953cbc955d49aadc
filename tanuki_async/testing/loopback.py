"""A real HTTP server on this machine that answers as a vendor would, with what a test tells it to say."""

from __future__ import annotations

import asyncio
import inspect
import json
import socket
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Self, cast

from tanuki_async._records import JsonValue, Reply
from tanuki_async.testing import _anthropic, _bedrock, _openai, _responses
from tanuki_async.testing._http import HttpConnection, HttpRequest, encode_response
from tanuki_async.testing._plainest import simplest, told_schema
from tanuki_async.testing._streaming import BrokenOffError, Streaming, is_streamed, joined, pieces_of
from tanuki_async.testing._strict import RefusedError, check_chat, check_embedding
from tanuki_async.testing._strict_anthropic import check_message
from tanuki_async.testing.answers import (
    ChatRequest,
    EmbeddingRequest,
    Fault,
    Script,
    as_answer,
    awaited,
    is_awaitable,
)

__all__ = ["LoopbackServer"]

CHAT, EMBEDDINGS, MODELS = "/v1/chat/completions", "/v1/embeddings", "/v1/models"
RESPONSES, MESSAGES = "/v1/responses", "/v1/messages"
_UNSET: Any = object()


class LoopbackServer:
    """Speaks OpenAI's format (chat completions, responses, embeddings, models) and Anthropic's messages on 127.0.0.1.

    `answer` tells what a chat is answered: a callable (plain or async) that gets the ChatRequest, a list or iterator
    of answers, or one answer for all. An answer is text (the content), another JSON value (encoded, in the envelope
    the request's schema wants), an `Answer`, a `Fault`, a `Reply` of raw HTTP, or an asynchronous iterator of texts:
    for a request that streams, each is sent as soon as it is there, and a `Fault` among them ends the answer. Without
    one, it is the plainest value that fits the schema. `embedding` is the same for embeddings: it gets an
    EmbeddingRequest and returns vectors; by default they come from the words of a text.

    `strict` answers 400 where the vendor would; without `streams` a request for a stream is one. `latency` is in
    seconds, as is the `pause` between two pieces of a stream. What goes wrong in an answerer is answered 400, so that
    no client tries again, and raised when the server closes.
    """

    def __init__(
        self,
        answer: object = _UNSET,
        *,
        embedding: object = _UNSET,
        latency: float = 0.0,
        pause: float = 0.0,
        streams: bool = True,
        strict: bool = False,
        api_key: str | None = None,
        models: Sequence[str] = _openai.DEFAULT_MODELS,
        headers: Mapping[str, str] | None = None,
        keep: int | None = None,
        port: int = 0,
    ) -> None:
        self._chat = Script(_plainest if answer is _UNSET else answer)
        self._embedding = Script(_word_vectors if embedding is _UNSET else embedding)
        self._raw: dict[tuple[str, str], Script] = {}
        self.latency, self.pause, self.streams, self.strict = latency, pause, streams, strict
        self._api_key, self._models, self._port = api_key, tuple(models), port
        self._headers = {"content-type": "application/json", **(headers or {})}
        self._socket: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._open: set[HttpConnection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiters: list[tuple[int, asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self.failures: list[BaseException] = []
        self.requests: deque[ChatRequest | EmbeddingRequest | HttpRequest] = deque(maxlen=keep)
        """What came, in order; the last `keep` of it."""
        self.served = 0
        """Requests that came in all."""
        self.in_flight = 0
        self.max_in_flight = 0
        self.connections_made = 0

    @property
    def url(self) -> str:
        """The base URL that a client is given; ends in /v1."""
        if self._port == 0:
            raise RuntimeError("the server has no address yet: write `async with LoopbackServer(...) as server:`")
        return f"http://127.0.0.1:{self._port}/v1"

    @property
    def connections(self) -> int:
        """Connections open now."""
        return len(self._open)

    async def start(self) -> None:
        """Listen."""
        if self._server is not None:
            raise RuntimeError("the server is running")
        self._server = await asyncio.get_running_loop().create_server(self._connect, sock=self._bind(), backlog=4096)

    def _bind(self) -> socket.socket:
        bound, self._socket = self._socket, None
        if bound is None:
            bound = socket.create_server(("127.0.0.1", self._port), backlog=4096)
            self._port = bound.getsockname()[1]
        return bound

    async def aclose(self) -> None:
        """Stop listening and cut what is open. Safe to call twice."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        for connection in list(self._open):
            connection.close(at_once=True)
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        await self.aclose()
        if kind is None:
            self.raise_failure()

    @classmethod
    @contextmanager
    def in_thread(cls, answer: object = _UNSET, **options: Any) -> Generator[Self]:
        """Run a server on an event loop of its own, in a thread: for tests without a loop, and for many loops.

        Its answerers run in that thread. Entering never waits, so it may be done on a running loop; leaving does.
        """
        server = cls(answer, **options)
        server._socket = server._bind()  # clients may connect from now on
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name="tanuki-loopback", daemon=True)
        started = asyncio.run_coroutine_threadsafe(server.start(), loop)
        thread.start()
        try:
            yield server
        finally:
            started.result()
            asyncio.run_coroutine_threadsafe(server.aclose(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()
        server.raise_failure()

    def put(self, *answers: object) -> None:
        """Answer the next chats with these, before anything else."""
        self._chat.put(*answers)

    def route(self, method: str, path: str, answer: object) -> None:
        """Answer another path, which begins with /v1: with a callable that gets the HttpRequest, a list, or one reply.

        A JSON value is answered as the body of a 200.
        """
        self._raw[method, path] = Script(answer)

    def replay(self, fixture: Mapping[str, Any], *, body: str | None = None) -> None:
        """Answer the next request for the fixture's path (by default a chat) as the fixture tells."""
        request = fixture.get("request", {})
        method, path = request.get("method", "POST"), request.get("path", CHAT)
        reply = fixture_reply(fixture, body=body)
        if method == "POST" and path in _FACES:
            self._chat.put(reply)
        elif (method, path) == ("POST", EMBEDDINGS):
            self._embedding.put(reply)
        else:
            self._raw.setdefault((method, path), Script([])).put(reply)

    async def wait_requests(self, count: int = 1) -> None:
        """Wait until `count` requests came in all."""
        loop = asyncio.get_running_loop()
        arrived = loop.create_future()
        self._waiters.append((count, loop, arrived))
        self._tell_waiters()
        await arrived

    def _tell_waiters(self) -> None:
        for waiter in list(self._waiters):
            count, loop, arrived = waiter
            if self.served < count:
                continue
            with suppress(ValueError):  # the server's thread and a test's may both come here
                self._waiters.remove(waiter)
                loop.call_soon_threadsafe(_set, arrived)

    def assert_done(self) -> None:
        """Raise what went wrong in an answerer, or ScriptError if scripted answers are left."""
        self.raise_failure()
        for script in (self._chat, self._embedding, *self._raw.values()):
            script.assert_done()

    def raise_failure(self) -> None:
        """Raise the first thing that went wrong in an answerer, once."""
        if self.failures:
            failures, self.failures = self.failures, []
            raise failures[0]

    def _connect(self) -> HttpConnection:
        return HttpConnection(self._on_request, self._on_change)

    def _on_change(self, connection: HttpConnection, opened: bool) -> None:
        if opened:
            self._open.add(connection)
            self.connections_made += 1
        else:
            self._open.discard(connection)

    def _on_request(self, connection: HttpConnection, request: HttpRequest) -> None:
        self.served += 1
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        if self._waiters:
            self._tell_waiters()
        connection.on_lost = self._finish
        try:
            asked, answer = self._ask(request)
        except RefusedError as error:
            fault = Fault.status(400, message=error.message, param=error.param, code=error.code)
            fault = fault if error.code != "invalid_api_key" else _BAD_KEY
            self._send(connection, _anthropic.fault_of(fault) if request.path == MESSAGES else fault)
            return
        except Exception as error:  # noqa: BLE001  # an answerer is the test's own code; kept in `failures`
            self._send(connection, self._failed(error))
            return
        if is_awaitable(answer) or self.latency > 0 or is_streamed(asked, answer):
            self._later(connection, asked, answer)
        else:
            self._finish_with(connection, asked, answer)

    def _ask(self, request: HttpRequest) -> tuple[object, object]:
        route = (request.method, request.path)
        keys = (request.headers.get("authorization"), f"Bearer {request.headers.get('x-api-key')}")
        if self._api_key is not None and f"Bearer {self._api_key}" not in keys:
            raise RefusedError("Incorrect API key provided.", code="invalid_api_key")
        if route in self._raw:
            self.requests.append(request)
            return request, self._raw[route].next_answer(request)
        if request.method == "POST" and _bedrock.is_bedrock(request.path):
            return self._ask_bedrock(request)
        if request.method == "POST" and request.path in _FACES:
            read, check = _FACES[request.path]
            chat = read(_json_body(request), request.headers)
            self.requests.append(chat)
            self._check(lambda body: check(body, request.headers), chat.body)
            return chat, self._next_chat(chat)
        if route == ("POST", EMBEDDINGS):
            texts = _openai.read_embedding(_json_body(request), request.headers)
            self.requests.append(texts)
            self._check(check_embedding, texts.body)
            return texts, self._embedding.next_answer(texts)
        self.requests.append(request)
        if route == ("GET", MODELS):
            return request, self._reply(_openai.write_models(self._models))
        return request, Fault.status(
            404, message=f"Unknown request URL: {request.method} {request.path}", code="unknown_url"
        )

    def _ask_bedrock(self, request: HttpRequest) -> tuple[object, object]:
        asked = _bedrock.read(request.path, _json_body(request), request.headers)
        self.requests.append(asked)
        if isinstance(asked, EmbeddingRequest):
            return asked, self._embedding.next_answer(asked)
        return asked, self._next_chat(asked)

    def _next_chat(self, chat: ChatRequest) -> object:
        answer = self._chat.next_answer(chat)
        if isinstance(answer, AsyncIterator):
            pieces = cast("AsyncIterator[object]", answer)
            return pieces if chat.body.get("stream") else joined(pieces)
        return answer

    def _check(self, check: Callable[[Mapping[str, Any]], None], body: Mapping[str, Any]) -> None:
        if body.get("stream") and not self.streams:
            raise RefusedError("this server does not stream", "stream", "unsupported_parameter")
        if self.strict:
            check(body)

    def _later(self, connection: HttpConnection, asked: object, answer: object) -> None:
        async def wait() -> None:
            if self.latency > 0:
                await asyncio.sleep(self.latency)
            try:
                result = await awaited(answer)
                if isinstance(asked, ChatRequest) and is_streamed(asked, result):
                    await self._stream(connection, asked, result)
                    return
            except Exception as error:  # noqa: BLE001  # an answerer is the test's own code; kept in `failures`
                self._send(connection, self._failed(error))
            else:
                self._finish_with(connection, asked, result)

        task = asyncio.get_running_loop().create_task(wait(), name="tanuki-loopback-answer")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if inspect.iscoroutine(answer):  # a task that is cancelled before it began has not awaited it
            task.add_done_callback(lambda _: answer.close())

        def lost() -> None:
            task.cancel()
            self._finish()

        connection.on_lost = lost

    async def _stream(self, connection: HttpConnection, asked: ChatRequest, answer: object) -> None:
        whole = None if isinstance(answer, AsyncIterator) else as_answer(answer, asked.schema)
        pieces = cast("AsyncIterator[object]", answer) if whole is None else pieces_of(whole)
        headers = {**self._headers, "x-request-id": f"req_{self.served:016x}"}
        try:
            kind = _STREAMS.get(type(asked), Streaming)
            await kind(connection, asked, self.served, headers).send(pieces, whole, pause=self.pause)
        except BrokenOffError:  # the connection is being closed, which finishes the request
            return
        except Exception as error:  # noqa: BLE001  # an answerer is the test's own code; kept in `failures`
            self.failures.append(error)
            connection.close(at_once=True)
            return
        self._finish()
        connection.end()

    def _finish_with(self, connection: HttpConnection, asked: object, answer: object) -> None:
        try:
            self._send(connection, self._render(asked, answer))
        except Exception as error:  # noqa: BLE001  # what the answerer returned cannot be sent
            self._send(connection, self._failed(error))

    def _render(self, asked: object, answer: object) -> Reply | Fault:
        if isinstance(answer, Fault) and isinstance(asked, _anthropic.MessageRequest):
            return _anthropic.fault_of(answer)
        if isinstance(answer, Reply | Fault):
            return answer
        if isinstance(asked, _bedrock.ConverseRequest | _bedrock.TitanTextRequest):
            return _bedrock.reply(asked, as_answer(answer, asked.schema), self.served)
        if isinstance(asked, _bedrock.TitanRequest):
            return _bedrock.reply(asked, cast("Sequence[Sequence[float]]", answer), self.served)
        if isinstance(asked, _anthropic.MessageRequest):
            body = _anthropic.write_message(asked, as_answer(answer, asked.schema), self.served)
        elif isinstance(asked, _responses.ResponseRequest):
            body = _responses.write(asked, as_answer(answer, asked.schema), self.served)
        elif isinstance(asked, ChatRequest):
            body = _openai.write_chat(asked, as_answer(answer, asked.schema), self.served)
        elif isinstance(asked, EmbeddingRequest):
            body = _openai.write_embeddings(asked, cast("Sequence[Sequence[float]]", answer))
        else:
            body = json.dumps(answer).encode()
        return self._reply(body)

    def _reply(self, body: bytes) -> Reply:
        number = f"req_{self.served:016x}"
        headers = {**self._headers, "x-request-id": number, "request-id": number}
        return Reply(status=200, headers=headers, body=body)

    def _failed(self, error: Exception) -> Fault:
        self.failures.append(error)
        return Fault.status(
            400, message=f"the loopback server's answer failed: {error!r}", code="loopback_answer_failed"
        )

    def _send(self, connection: HttpConnection, outcome: Reply | Fault) -> None:
        if isinstance(outcome, Reply):
            self._finish()
            connection.respond(outcome.status, outcome.headers, outcome.body)
            return
        if outcome.then == "keep" and outcome.reply is not None:
            self._send(connection, outcome.reply)
            return
        if outcome.reply is not None:
            whole = encode_response(outcome.reply.status, outcome.reply.headers, outcome.reply.body)
            connection.write(whole[: int(len(whole) * outcome.part)])
        if outcome.then != "hang":
            connection.close(at_once=outcome.then == "abort")

    def _finish(self) -> None:
        self.in_flight -= 1


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


_FACES: dict[str, tuple[Callable[..., ChatRequest], Callable[[Mapping[str, Any], Mapping[str, str]], None]]] = {
    CHAT: (_openai.read_chat, lambda body, _: check_chat(body)),
    RESPONSES: (_responses.read, lambda body, _: check_chat(body)),
    MESSAGES: (_anthropic.read_message, check_message),
}
"""How the chats of each vendor are read, and what it refuses."""

_STREAMS: dict[type[ChatRequest], type[Streaming]] = {
    _anthropic.MessageRequest: _anthropic.MessageStreaming,
    _responses.ResponseRequest: _responses.ResponseStreaming,
    _bedrock.ConverseRequest: _bedrock.ConverseStreaming,
}
_BAD_KEY = Fault.status(401, message="Incorrect API key provided.")


def fixture_reply(fixture: Mapping[str, Any], *, body: str | None = None) -> Reply:
    """Make a raw HTTP answer of a recorded one: `status`, `headers` and `body`, `bodies` (one is named) or `sse`."""
    if "sse" in fixture:
        content = "".join(f"{event}\n\n" for event in fixture["sse"]).encode()
    else:
        value = fixture["bodies"][body] if body is not None else fixture["body"]
        content = value.encode() if isinstance(value, str) else json.dumps(value).encode()
    return Reply(status=fixture.get("status", 200), headers=fixture.get("headers", {}), body=content)


def _json_body(request: HttpRequest) -> dict[str, Any]:
    with suppress(ValueError):
        body = json.loads(request.body)
        if isinstance(body, dict):
            return cast("dict[str, Any]", body)
    raise RefusedError("We could not parse the JSON body of your request.", code="invalid_json")


def _plainest(request: ChatRequest) -> JsonValue:
    schema = told_schema(request.system) or request.schema
    return simplest(schema) if schema is not None else "{}"


def _word_vectors(request: EmbeddingRequest) -> list[list[float]]:
    return [_openai.vector(text, request.dimensions or _openai.DIMENSIONS) for text in request.texts]
