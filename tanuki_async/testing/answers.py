"""What a test may have a model answer, and how a script of such answers is worked off."""

from __future__ import annotations

import inspect
import json
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, cast

from tanuki_async._records import Attachment, JsonSchema, JsonValue, Reply, Usage
from tanuki_async.testing._contents import attachments_in, content_text

__all__ = ["Answer", "ChatRequest", "EmbeddingRequest", "Fault", "ScriptError", "Value"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """One question as the model gets it, whatever carried it."""

    model: str
    messages: Sequence[Mapping[str, Any]]
    schema: JsonSchema | None = None
    """The JSON schema that the answer was asked to have."""
    schema_name: str | None = None
    body: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """All fields of the request, as sent. Empty where no HTTP was involved."""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def text(self) -> str:
        """The last user turn."""
        return next((text for role, text in self._turns() if role == "user"), "")

    @property
    def system(self) -> str:
        """All system and developer messages."""
        return "\n".join(content_text(m.get("content")) for m in self.messages if m["role"] in ("system", "developer"))

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of the call: the last user turn that is a JSON object. Empty when there is none."""
        for role, text in self._turns():
            if role == "user" and (found := _json_object(text)) is not None:
                return found
        return {}

    @property
    def attachments(self) -> tuple[Attachment, ...]:
        """What is attached to the call: to the last user message that has attachments or is a JSON object."""
        for message in reversed(self.messages):
            found = attachments_in(message.get("content"))
            if message["role"] == "user" and (found or _json_object(content_text(message.get("content"))) is not None):
                return found
        return ()

    def _turns(self) -> Iterator[tuple[str, str]]:
        for message in reversed(self.messages):
            yield message["role"], content_text(message.get("content"))


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingRequest:
    """Texts to embed."""

    model: str
    texts: Sequence[str]
    dimensions: int | None = None
    body: Mapping[str, Any] = field(default_factory=dict[str, Any])
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Answer:
    """A model's answer in full. `text` None with a `refusal` is a refusal; `usage` None is counted from the texts."""

    text: str | None
    usage: Usage | None = None
    finish_reason: Literal["stop", "length", "content_filter", "tool_calls"] = "stop"
    refusal: str | None = None


@dataclass(frozen=True, slots=True)
class Value:
    """A JSON value as the answer. Only text needs it: a plain `str` is the content as it is, unquoted, no envelope."""

    value: JsonValue


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something that goes wrong on the way of an answer; make one with a class method.

    Sends the first `part` of `reply` (None: nothing), then closes the connection, or leaves the client waiting.
    """

    reply: Reply | None = None
    part: float = 1.0
    then: Literal["keep", "close", "abort", "hang"] = "keep"

    @classmethod
    def status(
        cls,
        status: int,
        *,
        retry_after: float | None = None,
        retry_after_ms: int | None = None,
        message: str = "scripted failure",
        type: str | None = None,  # noqa: A002  # the name on the wire
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Fault:
        """Answer with an error status and OpenAI's error body. Seconds and milliseconds make their headers."""
        fields = {"content-type": "application/json", **(headers or {})}
        if retry_after is not None:
            fields["retry-after"] = f"{retry_after:g}"
        if retry_after_ms is not None:
            fields["retry-after-ms"] = str(retry_after_ms)
        kind, usual = _ERRORS.get(status, ("server_error" if status >= 500 else "invalid_request_error", None))
        error = {"message": message, "type": type or kind, "param": param, "code": code or usual}
        return cls(reply=Reply(status=status, headers=fields, body=json.dumps({"error": error}).encode()))

    @classmethod
    def quota(cls) -> Fault:
        """Answer 429 for an account without credit: waiting does not help."""
        return cls.status(429, type="insufficient_quota", code="insufficient_quota", message="You exceeded your quota.")

    @classmethod
    def html(cls, status: int = 502) -> Fault:
        """Answer with a page of HTML, as a proxy in between does."""
        body = b"<html><head><title>502 Bad Gateway</title></head><body><h1>Bad Gateway</h1></body></html>"
        return cls(reply=Reply(status=status, headers={"content-type": "text/html; charset=utf-8"}, body=body))

    @classmethod
    def cut_midway(cls) -> Fault:
        """Send half of a good answer, then close the connection."""
        return cls(reply=_json_reply({"id": "chatcmpl-cut", "object": "chat.completion"}), part=0.8, then="close")

    @classmethod
    def hang(cls) -> Fault:
        """Send nothing, ever; lasts until the client goes away or the server closes."""
        return cls(then="hang")

    @classmethod
    def disconnect(cls) -> Fault:
        """Close the connection without a word."""
        return cls(then="abort")

    @classmethod
    def empty_choices(cls) -> Fault:
        """Answer 200 with no choices."""
        return cls(reply=_json_reply({"id": "chatcmpl-none", "object": "chat.completion", "choices": []}))

    @classmethod
    def truncated_json(cls) -> Fault:
        """Answer 200, whole as HTTP, with a body whose JSON stops in the middle."""
        body = b'{"id":"chatcmpl-half","object":"chat.completion","choices":[{"index":0,"message":{"role":"assis'
        return cls(reply=Reply(status=200, headers={"content-type": "application/json"}, body=body))

    @staticmethod
    def refusal(text: str = "I'm sorry, I can't help with that request.") -> Answer:
        """Decline, as a model does."""
        return Answer(None, refusal=text)

    @staticmethod
    def cut_off(text: str = '{"value":"') -> Answer:
        """Stop in the middle of the answer, because its limit of tokens is reached."""
        return Answer(text, finish_reason="length")


_ERRORS: dict[int, tuple[str, str | None]] = {
    400: ("invalid_request_error", None),
    401: ("invalid_request_error", "invalid_api_key"),
    404: ("invalid_request_error", "model_not_found"),
    429: ("requests", "rate_limit_exceeded"),
    503: ("server_error", "slow_down"),
}


class ScriptError(AssertionError):
    """A script of answers and the requests that came do not go together."""


Answering: TypeAlias = "Callable[[Any], object] | Sequence[object] | Iterator[object] | object"


class Script:
    """Works off what a test wants answered.

    A callable is asked each time; a list, tuple or iterator is consumed step by step (a step may be a callable); an
    iterator that ends, or a list that is used up, is a ScriptError. Anything else is the answer to every request.
    """

    def __init__(self, source: object) -> None:
        self._constant = source
        self._steps: deque[object] | None = None
        self._iterator: Iterator[object] | None = None
        if isinstance(source, list | tuple):
            self._steps = deque(cast("Sequence[object]", source))
        elif isinstance(source, Iterator):
            self._iterator = cast("Iterator[object]", source)
        self._first: deque[object] = deque()
        self.asked = 0

    def put(self, *steps: object) -> None:
        """Add steps that come before everything else, in their order."""
        self._first.extend(steps)

    @property
    def left(self) -> int:
        """Steps not consumed yet. What an iterator still has is unknown and not counted."""
        return len(self._first) + len(self._steps or ())

    def next_answer(self, request: object) -> object:
        """Return the next answer, or an awaitable of it."""
        self.asked += 1
        step = self._next_step()
        return cast("Callable[[object], object]", step)(request) if callable(step) else step

    def _next_step(self) -> object:
        if self._first:
            return self._first.popleft()
        if self._iterator is not None:
            for step in self._iterator:
                return step
            raise ScriptError(f"the script of answers has ended; this is request {self.asked}")
        if self._steps is None:
            return self._constant
        if not self._steps:
            raise ScriptError(f"the script has {self.asked - 1} answers; this is request {self.asked}")
        return self._steps.popleft()

    def assert_done(self) -> None:
        """Raise ScriptError if steps are left."""
        if self.left:
            raise ScriptError(f"{self.left} scripted answers were never asked for, after {self.asked} requests")


def is_awaitable(answer: object) -> bool:
    """Tell whether an answer has to be awaited."""
    return not isinstance(answer, str | Answer | Fault) and inspect.isawaitable(answer)


async def awaited(answer: object) -> object:
    """Wait for an answer if it must be waited for."""
    return await cast("Awaitable[object]", answer) if is_awaitable(answer) else answer


def as_answer(result: object, schema: JsonSchema | None) -> Answer:
    """Make an Answer of what an answerer returned: text is the content, any other JSON value is encoded."""
    if isinstance(result, Answer):
        return result
    if isinstance(result, str):
        return Answer(result)
    if isinstance(result, Value):
        result = result.value
    return Answer(encode_value(cast("JsonValue", result), schema))


def encode_value(value: JsonValue, schema: JsonSchema | None) -> str:
    """Write a JSON value, inside `{"value": …}` where the schema's only property is that one."""
    properties = schema.get("properties") if schema else None
    if isinstance(properties, dict) and list(properties) == ["value"] and not _has_envelope(value):
        value = {"value": value}
    return json.dumps(value, ensure_ascii=False)


def _has_envelope(value: JsonValue) -> bool:
    return isinstance(value, dict) and list(value) == ["value"]


def tokens(text: str) -> int:
    """A plausible count of tokens."""
    return max(1, len(text) // 4)


def count_usage(messages: Sequence[Mapping[str, Any]], answer: Answer) -> Usage:
    """The usage of a chat: as told by the answer, else counted from the texts."""
    if answer.usage is not None:
        return answer.usage
    asked = sum(4 + tokens(content_text(message.get("content"))) for message in messages)
    return Usage(requests=1, input_tokens=asked, output_tokens=tokens(answer.text or answer.refusal or ""))


def _json_object(text: str) -> dict[str, Any] | None:
    start = text.find("{")
    if start < 0:
        return None
    try:
        found, _ = json.JSONDecoder().raw_decode(text, start)
    except ValueError:
        return None
    return cast("dict[str, Any]", found) if isinstance(found, dict) else None


def _json_reply(value: JsonValue) -> Reply:
    return Reply(status=200, headers={"content-type": "application/json"}, body=json.dumps(value).encode())
