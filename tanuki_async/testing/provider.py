"""A provider without a wire: answers from a script, fails, hangs and limits when told to."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, cast

from tanuki_async._codec.media import content_of
from tanuki_async._errors import ProviderError, RateLimitedError, RefusalError
from tanuki_async._models import ANYTHING
from tanuki_async._records import Completion, JsonValue, Limits, Model, Request, Usage
from tanuki_async.abc import Http, Provider
from tanuki_async.testing._openai import DIMENSIONS, vector
from tanuki_async.testing._plainest import simplest
from tanuki_async.testing.answers import (
    ChatRequest,
    EmbeddingRequest,
    Fault,
    Script,
    as_answer,
    awaited,
    count_usage,
    tokens,
)

__all__ = ["FakeProvider"]

_UNSET: Any = object()


class FakeProvider(Provider):
    """Answers as a test tells it to; every question is in `calls`, every list of texts to embed in `embedded`.

    `answer` is a callable (plain or async) that gets the ChatRequest, a list or iterator of answers, or one answer for
    all. An answer is text, another JSON value (encoded, in the envelope that the schema wants), an `Answer`, or an
    exception, which is raised. Without one, it is the plainest value that fits the schema. `embedding` is the same for
    embeddings: it gets an EmbeddingRequest and returns vectors; by default they come from the words of a text.
    """

    def __init__(
        self,
        answer: object = _UNSET,
        *,
        embedding: object = _UNSET,
        name: str = "fake",
        limits: Limits | None = None,
        models: Mapping[str, Model] | None = None,
        dimensions: int = DIMENSIONS,
    ) -> None:
        self.name = name
        self.limits = limits or Limits()
        self.calls: list[Request] = []
        self.embedded: list[Sequence[str]] = []
        self.running = 0
        """Questions being answered now."""
        self.max_running = 0
        self._models, self._dimensions = dict(models or {}), dimensions
        self._chat = Script(_plainest if answer is _UNSET else answer)
        self._embedding = Script(self._word_vectors if embedding is _UNSET else embedding)
        self._failures: list[Exception] = []
        self._always: Exception | None = None
        self._hanging = False
        self._hung: list[asyncio.Future[None]] = []
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []

    def model(self, name: str) -> Model:
        """The model as given to this provider, else with the usual assumptions."""
        return self._models.get(name) or Model(provider=self.name, name=name, attachments=ANYTHING)

    def put(self, *answers: object) -> None:
        """Answer the next questions with these, before anything else."""
        self._chat.put(*answers)

    def fail(self, error: Exception, times: int | None = 1) -> None:
        """Raise `error` for the next `times` questions, or for all that follow (None) until `recover`."""
        if times is None:
            self._always = error
        else:
            self._failures.extend([error] * times)

    def limit(self, times: int = 1, *, retry_after: float | None = 1.0) -> None:
        """Answer the next `times` questions with a RateLimitedError."""
        self.fail(RateLimitedError("too many requests", self.name, status=429, retry_after=retry_after), times)

    def hang(self) -> None:
        """Answer nothing from now on, until `recover`."""
        self._hanging = True

    def recover(self) -> None:
        """Answer again, also what hangs; forget failures that were told and have not been raised."""
        self._hanging, self._always = False, None
        self._failures.clear()
        hung, self._hung = self._hung, []
        for future in hung:
            if not future.done():
                future.set_result(None)

    async def wait_called(self, count: int = 1) -> None:
        """Wait until `count` questions came in all, chats and embeddings together."""
        if self._asked() < count:
            called = asyncio.get_running_loop().create_future()
            self._waiters.append((count, called))
            await called

    def assert_done(self) -> None:
        """Raise ScriptError if scripted answers are left."""
        self._chat.assert_done()
        self._embedding.assert_done()

    async def complete(self, request: Request, http: Http) -> Completion:
        """Answer from the script."""
        self.calls.append(request)
        chat = as_chat(request)
        result = await self._work(self._chat, chat, request.model)
        answer = as_answer(result, chat.schema)
        if answer.refusal is not None or answer.finish_reason == "content_filter":
            raise RefusalError(answer.refusal or "the content filter stopped it", self.name, request.model.name)
        return Completion(
            text=answer.text or "",
            usage=count_usage(chat.messages, answer),
            truncated=answer.finish_reason == "length",
            model=request.model.name,
            request_id=f"fake-{len(self.calls)}",
        )

    async def embed(self, model: Model, texts: Sequence[str], http: Http) -> tuple[Sequence[Sequence[float]], Usage]:
        """Return vectors from the script, or such as come from the texts' words."""
        self.embedded.append(tuple(texts))
        asked = EmbeddingRequest(model=model.name, texts=tuple(texts), dimensions=model.shorten_to)
        vectors = cast("list[list[float]]", await self._work(self._embedding, asked, model))
        return vectors, Usage(requests=1, input_tokens=sum(tokens(text) for text in texts))

    async def _work(self, script: Script, asked: object, model: Model) -> object:
        self._tell_waiters()
        self.running += 1
        self.max_running = max(self.max_running, self.running)
        try:
            await self._pause()
            if (error := self._always) is not None or (error := next(iter(self._failures), None)) is not None:
                if error is not self._always:
                    self._failures.pop(0)
                raise _fresh(error, self.name, model.name)
            result = await awaited(script.next_answer(asked))
        finally:
            self.running -= 1
        if isinstance(result, BaseException):
            raise _fresh(result, self.name, model.name)
        if isinstance(result, Fault):
            raise TypeError("a Fault needs a wire: give it to a LoopbackServer, or give this provider an exception")
        return result

    async def _pause(self) -> None:
        if not self._hanging:
            await asyncio.sleep(0)  # as a real one, it never answers before others ran
            return
        future = asyncio.get_running_loop().create_future()
        self._hung.append(future)
        await future

    def _asked(self) -> int:
        return len(self.calls) + len(self.embedded)

    def _tell_waiters(self) -> None:
        for waiter in list(self._waiters):
            if self._asked() >= waiter[0]:
                self._waiters.remove(waiter)
                if not waiter[1].done():
                    waiter[1].set_result(None)

    def _word_vectors(self, request: EmbeddingRequest) -> list[list[float]]:
        return [vector(text, request.dimensions or self._dimensions) for text in request.texts]


def as_chat(request: Request) -> ChatRequest:
    """Show a Request the way a LoopbackServer would see it, so that one answerer serves both."""
    turns = (*request.head.examples, *request.turns)
    messages = [{"role": turn.role, "content": content_of(turn)} for turn in turns]
    return ChatRequest(
        model=request.model.name,
        messages=[{"role": request.model.instruction_role, "content": request.head.system}, *messages],
        schema=request.head.answer.schema,
        schema_name=request.head.answer.name,
    )


def _fresh(error: BaseException, provider: str, model: str) -> BaseException:
    """One exception object must not be raised twice: its traceback would grow. Fill in who answered, where unsaid."""
    if not isinstance(error, ProviderError):
        return error
    arguments = list(error.args)
    arguments[1:3] = error.provider or provider, error.model or model
    copy = type(error)(*arguments)
    copy.__dict__.update({k: v for k, v in error.__dict__.items() if k not in copy.__dict__})
    return copy


def _plainest(request: ChatRequest) -> JsonValue:
    return simplest(request.schema or {"type": "object"})
