"""OpenAI's wire format from the server's side: requests read, answers written."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any, cast

from tanuki_async._records import Usage
from tanuki_async.testing.answers import Answer, ChatRequest, EmbeddingRequest, count_usage, tokens

DEFAULT_MODELS = ("gpt-6-luna", "gpt-6.1-terra", "gpt-6.1-sol", "text-embedding-3-small", "text-embedding-3-large")
DIMENSIONS = 16
CREATED = 1_795_300_000


def read_chat(body: Mapping[str, Any], headers: Mapping[str, str]) -> ChatRequest:
    """Read the body of a POST to /chat/completions."""
    wanted: dict[str, Any] = _mapping(_mapping(body.get("response_format")).get("json_schema"))
    return ChatRequest(
        model=body.get("model", ""),
        messages=body.get("messages", ()),
        schema=wanted.get("schema"),
        schema_name=wanted.get("name"),
        body=body,
        headers=headers,
    )


def read_embedding(body: Mapping[str, Any], headers: Mapping[str, str]) -> EmbeddingRequest:
    """Read the body of a POST to /embeddings."""
    texts = body.get("input", ())
    return EmbeddingRequest(
        model=body.get("model", ""),
        texts=(texts,) if isinstance(texts, str) else texts,
        dimensions=body.get("dimensions"),
        body=body,
        headers=headers,
    )


def write_chat(request: ChatRequest, answer: Answer, number: int) -> bytes:
    """Write the body that answers a chat."""
    usage = count_usage(request.messages, answer)
    message: dict[str, Any] = {
        "role": "assistant",
        "content": answer.text,
        "refusal": answer.refusal,
        "annotations": [],
    }
    choice: dict[str, Any] = {"index": 0, "message": message, "logprobs": None, "finish_reason": answer.finish_reason}
    return _encode(
        {
            "id": f"chatcmpl-{number:08x}",
            "object": "chat.completion",
            "created": CREATED,
            "model": request.model,
            "choices": [choice],
            "usage": usage_fields(usage),
            "service_tier": "default",
            "system_fingerprint": None,
        }
    )


def usage_fields(usage: Usage) -> dict[str, Any]:
    """Write what an answer used."""
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens, "audio_tokens": 0},
    }


def write_embeddings(request: EmbeddingRequest, vectors: Sequence[Sequence[float]]) -> bytes:
    """Write the body that answers a request for embeddings."""
    packed = request.body.get("encoding_format") == "base64"
    data = [
        {"object": "embedding", "index": index, "embedding": _pack(vector) if packed else list(vector)}
        for index, vector in enumerate(vectors)
    ]
    used = sum(tokens(text) for text in request.texts)
    usage = {"prompt_tokens": used, "total_tokens": used}
    return _encode({"object": "list", "data": data, "model": request.model, "usage": usage})


def write_models(names: Sequence[str]) -> bytes:
    """Write the list of models."""
    data = [
        {"id": name, "object": "model", "created": CREATED, "owned_by": "system", "shutdown_date": None}
        for name in names
    ]
    return _encode({"object": "list", "data": data})


def vector(text: str, dimensions: int = DIMENSIONS) -> list[float]:
    """Embed a text the same way everywhere: length 1, and nearer to another the more words they share."""
    total = [0.0] * dimensions
    for word in text.lower().split() or [text]:
        drawn = hashlib.shake_128(word.encode("utf-8", "surrogatepass")).digest(2 * dimensions)
        for place, number in enumerate(struct.unpack(f"<{dimensions}h", drawn)):
            total[place] += number / 32768
    length = sum(part * part for part in total) ** 0.5 or 1.0
    return [part / length for part in total]


def _mapping(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _pack(numbers: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()


def _encode(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")
