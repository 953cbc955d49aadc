"""A real HTTP server on this machine that answers as a vendor would, with what a test tells it to say."""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import AsyncIterator, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Self, cast

from tanuki_async._records import JsonValue, Reply
from tanuki_async.testing import _openai, _vendors
from tanuki_async.testing._http import HttpConnection, HttpRequest, encode_response
from tanuki_async.testing._listening import Listening
from tanuki_async.testing._plainest import simplest, told_schema
from tanuki_async.testing._streaming import BrokenOffError, is_streamed, joined, pieces_of
from tanuki_async.testing._strict import RefusedError
from tanuki_async.testing._vendors import CHAT, CHATS, EMBEDDINGS, MODELS, fixture_reply
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

_UNSET: Any = object()


class LoopbackServer(Listening):
    """Speaks OpenAI's format (chat completions, responses, embeddings, models), Anthropic's and Bedrock's on 127.0.0.1.

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
        super().__init__(port)
        self._chat = Script(_plainest if answer is _UNSET else answer)
        self._embedding = Script(_word_vectors if embedding is _UNSET else embedding)
        self._raw: dict[tuple[str, str], Script] = {}
        self.latency, self.pause, self.streams, self.strict = latency, pause, streams, strict
        self._api_key, self._models = api_key, tuple(models)
        self._headers = {"content-type": "application/json", **(headers or {})}
        self._waiters: list[tuple[int, asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self.failures: list[BaseException] = []
        self.requests: deque[ChatRequest | EmbeddingRequest | HttpRequest] = deque(maxlen=keep)
        """What came, in order; the last `keep` of it."""
        self.served = 0
        """Requests that came in all."""
        self.in_flight = 0
        self.max_in_flight = 0

    @classmethod
    @contextmanager
    def in_thread(cls, answer: object = _UNSET, **options: Any) -> Generator[Self]:
        """Run a server on an event loop of its own, in a thread: for tests without a loop, and for many loops.

        Its answerers run in that thread. Entering never waits, so it may be done on a running loop; leaving does.
        """
        server = cls(answer, **options)
        with server._on_own_loop():
            yield server
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
        if method == "POST" and path in CHATS:
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
            self._send(connection, _vendors.refusal(error, request.path))
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
        asked = _vendors.read(request)
        self.requests.append(asked)
        if isinstance(asked, HttpRequest):
            return asked, self._other(asked)
        _vendors.check(asked, strict=self.strict, streams=self.streams)
        return asked, self._next_chat(asked) if isinstance(asked, ChatRequest) else self._embedding.next_answer(asked)

    def _other(self, request: HttpRequest) -> Reply | Fault:
        if (request.method, request.path) == ("GET", MODELS):
            body = _openai.write_models(self._models)
            return _vendors.success(body, number=self.served, headers=self._headers)
        return Fault.status(404, message=f"Unknown request URL: {request.method} {request.path}", code="unknown_url")

    def _next_chat(self, chat: ChatRequest) -> object:
        answer = self._chat.next_answer(chat)
        if isinstance(answer, AsyncIterator):
            pieces = cast("AsyncIterator[object]", answer)
            return pieces if chat.body.get("stream") else joined(pieces)
        return answer

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
        try:
            streaming = _vendors.streaming(asked, connection, number=self.served, headers=self._headers)
            await streaming.send(pieces, whole, pause=self.pause)
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
            self._send(connection, _vendors.render(asked, answer, number=self.served, headers=self._headers))
        except Exception as error:  # noqa: BLE001  # what the answerer returned cannot be sent
            self._send(connection, self._failed(error))

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


def _plainest(request: ChatRequest) -> JsonValue:
    schema = told_schema(request.system) or request.schema
    return simplest(schema) if schema is not None else "{}"


def _word_vectors(request: EmbeddingRequest) -> list[list[float]]:
    return [_openai.vector(text, request.dimensions or _openai.DIMENSIONS) for text in request.texts]
