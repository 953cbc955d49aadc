"""Bedrock's wire format from the server's side: Converse, its stream, and Titan's texts and embeddings."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import unquote

from tanuki_async._records import JsonSchema, Reply
from tanuki_async.providers._aws_events import write
from tanuki_async.testing._http import HttpConnection
from tanuki_async.testing._streaming import Streaming
from tanuki_async.testing._strict import RefusedError
from tanuki_async.testing.answers import Answer, ChatRequest, EmbeddingRequest, count_usage, tokens

_PATH = re.compile(r"^/v1/model/(?P<model>[^/]+)/(?P<action>converse|converse-stream|invoke)$")
_SPEAKER = re.compile(r"^(User|Bot):", re.MULTILINE)
_ROLES = {"User": "user", "Bot": "assistant"}
_ENDS = {"stop": "FINISH", "length": "LENGTH", "content_filter": "CONTENT_FILTERED", "tool_calls": "FINISH"}
_REASONS = {"stop": "end_turn", "length": "max_tokens", "content_filter": "content_filtered", "tool_calls": "tool_use"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ConverseRequest(ChatRequest):
    """A question that came through Converse. `body` has `stream` set where it came through ConverseStream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TitanTextRequest(ChatRequest):
    """A question to Titan Text, whose format is a dialogue in one text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TitanRequest(EmbeddingRequest):
    """One text to embed with Titan."""


def is_bedrock(path: str) -> bool:
    """Tell whether a path is one of Bedrock's."""
    return _PATH.match(path) is not None


def read(
    path: str, body: Mapping[str, Any], headers: Mapping[str, str]
) -> ConverseRequest | TitanTextRequest | TitanRequest:
    """Read a request of which `is_bedrock` is true. RefusedError for a format that is not spoken here."""
    found = _PATH.match(path)
    assert found is not None
    model = unquote(found["model"])
    if found["action"] == "invoke":
        return _read_titan(model, body, headers)
    system = [{"role": "system", "content": block["text"]} for block in body.get("system", ())]
    turns = [{"role": each["role"], "content": each["content"]} for each in body.get("messages", ())]
    name, schema = _wanted(body)
    if found["action"] == "converse-stream":
        body = {**body, "stream": True}
    return ConverseRequest(
        model=model, messages=[*system, *turns], schema=schema, schema_name=name, body=body, headers=headers
    )


def _read_titan(model: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> TitanTextRequest | TitanRequest:
    text = body.get("inputText")
    if not isinstance(text, str):
        raise RefusedError(f"Of what is invoked, only Titan is spoken here: inputText, not {', '.join(body)}.")
    if "textGenerationConfig" not in body and not text.endswith("Bot:"):
        return TitanRequest(model=model, texts=(text,), dimensions=body.get("dimensions"), body=body, headers=headers)
    system, *said = _SPEAKER.split(text)
    turns = [{"role": _ROLES[who], "content": told.strip()} for who, told in zip(said[::2], said[1::2], strict=True)]
    return TitanTextRequest(
        model=model, messages=[{"role": "system", "content": system.strip()}, *turns[:-1]], body=body, headers=headers
    )


def reply(
    asked: ConverseRequest | TitanTextRequest | TitanRequest, answer: Answer | Sequence[Sequence[float]], number: int
) -> Reply:
    """Write what is answered at once."""
    if isinstance(asked, TitanRequest):
        vectors = cast("Sequence[Sequence[float]]", answer)
        body: dict[str, Any] = {"embedding": list(vectors[0]), "inputTextTokenCount": tokens(asked.texts[0])}
    elif isinstance(asked, TitanTextRequest):
        assert isinstance(answer, Answer)
        usage = count_usage(asked.messages, answer)
        said = {
            "tokenCount": usage.output_tokens,
            "outputText": answer.text or "",
            "completionReason": "CONTENT_FILTERED" if answer.refusal is not None else _ENDS[answer.finish_reason],
        }
        body = {"inputTextTokenCount": usage.input_tokens, "results": [said]}
    else:
        assert isinstance(answer, Answer)
        message = {"role": "assistant", "content": _content(asked, answer)}
        body = {"output": {"message": message}, "stopReason": _reason(asked, answer), **_counts(asked, answer)}
    return Reply(status=200, headers=_headers(number, "application/json"), body=json.dumps(body).encode())


class ConverseStreaming(Streaming):
    """Writes one answer to one connection, with the events that ConverseStream sends."""

    def __init__(
        self, connection: HttpConnection, request: ChatRequest, number: int, headers: Mapping[str, str]
    ) -> None:
        super().__init__(connection, request, number, headers)
        self._headers = {**self._headers, **_headers(number, "application/vnd.amazon.eventstream")}

    def _open(self) -> None:
        self._frame("messageStart", {"role": "assistant"})

    def _piece(self, text: str) -> None:
        delta = {"toolUse": {"input": text}} if "toolConfig" in self._request.body else {"text": text}
        self._frame("contentBlockDelta", {"delta": delta, "contentBlockIndex": 0})

    def _close(self, answer: Answer) -> None:
        self._frame("contentBlockStop", {"contentBlockIndex": 0})
        self._frame("messageStop", {"stopReason": _reason(self._request, answer)})
        self._frame("metadata", _counts(self._request, answer))

    def _error(self, body: bytes) -> None:
        self._connection.chunk(write({":message-type": "exception", ":exception-type": "throttlingException"}, body))

    def _frame(self, name: str, fields: Mapping[str, Any]) -> None:
        headers = {":event-type": name, ":content-type": "application/json", ":message-type": "event"}
        self._connection.chunk(write(headers, json.dumps(fields).encode()))


def _wanted(body: Mapping[str, Any]) -> tuple[str | None, JsonSchema | None]:
    """The name and schema that the answer was asked to have: as its format, or as the input of a tool."""
    structure = body.get("outputConfig", {}).get("textFormat", {}).get("structure", {}).get("jsonSchema")
    if structure:
        return structure["name"], json.loads(structure["schema"])
    for tool in body.get("toolConfig", {}).get("tools", ()):
        return tool["toolSpec"]["name"], tool["toolSpec"]["inputSchema"]["json"]
    return None, None


def _content(asked: ConverseRequest, answer: Answer) -> list[dict[str, Any]]:
    if not answer.text:
        return []
    if "toolConfig" in asked.body and answer.finish_reason != "length":
        use = {"toolUseId": "tooluse_1", "name": asked.schema_name, "input": json.loads(answer.text)}
        return [{"toolUse": use}]
    return [{"text": answer.text}]


def _reason(asked: ChatRequest, answer: Answer) -> str:
    if answer.refusal is not None:
        return "content_filtered"
    by_tool = "toolConfig" in asked.body and answer.finish_reason == "stop"
    return "tool_use" if by_tool else _REASONS[answer.finish_reason]


def _counts(asked: ChatRequest, answer: Answer) -> dict[str, Any]:
    usage = count_usage(asked.messages, answer)
    counted = {
        "inputTokens": usage.input_tokens - usage.cached_tokens,
        "outputTokens": usage.output_tokens,
        "totalTokens": usage.input_tokens + usage.output_tokens,
        "cacheReadInputTokens": usage.cached_tokens,
        "cacheWriteInputTokens": 0,
    }
    return {"usage": counted, "metrics": {"latencyMs": 1}}


def _headers(number: int, kind: str) -> dict[str, str]:
    return {"content-type": kind, "x-amzn-requestid": f"00000000-0000-4000-8000-{number:012x}"}
