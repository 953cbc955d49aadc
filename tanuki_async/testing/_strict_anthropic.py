"""What Anthropic refuses with a 400: fields that its version or a model does not take, schemas beyond its dialect."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, cast

from tanuki_async.testing._strict import RefusedError

# fmt: off
_FIELDS = frozenset((
    "max_tokens", "messages", "metadata", "model", "output_config", "service_tier", "stop_sequences", "stream",
    "system", "thinking", "tool_choice", "tools", "cache_control", "container", "inference_geo",
))
_SAMPLING = frozenset(("temperature", "top_p", "top_k"))
_KEYWORDS = frozenset((
    "type", "enum", "const", "anyOf", "allOf", "$defs", "$ref", "description", "title", "properties", "required",
    "additionalProperties", "items", "format", "minItems",
))
_FORMATS = frozenset((
    "date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid",
))
_TYPES = frozenset(("object", "array", "string", "integer", "number", "boolean", "null"))
# fmt: on
_NEW = re.compile(r"claude-[a-z]+-5-[1-9]")
_NEVER_FORCED = re.compile(r"claude-(?:sonnet|opus|fable)-5-[1-9]")
_EFFORTS = ("low", "medium", "high", "xhigh", "max")
_IMAGES = ("image/png", "image/jpeg", "image/gif", "image/webp")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}\Z")
_MOST_MARKS = 4


def check_message(body: Mapping[str, Any], headers: Mapping[str, str]) -> None:
    """Raise RefusedError where Anthropic would answer 400 to this message."""
    problem = next(_problems(body, headers), None)
    if problem is not None:
        raise RefusedError(problem)


def check_schema(schema: object, where: str) -> None:
    """Raise RefusedError where `schema` has a keyword that the dialect does not know."""
    problem = next(_schema_problems(schema, where), None)
    if problem is not None:
        raise RefusedError(problem)


def _problems(body: Mapping[str, Any], headers: Mapping[str, str]) -> Iterator[str]:
    version, model = headers.get("anthropic-version"), body.get("model")
    if version not in ("2023-06-01", "2026-10-21"):
        yield "anthropic-version: header is required"
    old = version == "2023-06-01" and not _NEW.search(str(model))
    for name in body:
        if name not in _FIELDS and not (old and name in _SAMPLING):
            yield f"{name}: Extra inputs are not permitted"
    if not isinstance(model, str) or not model:
        yield "model: Field required"
    if not _is_count(body.get("max_tokens")):
        yield "max_tokens: Field required" if "max_tokens" not in body else "max_tokens: must be at least 1"
    yield from _message_problems(body.get("messages"), new=_NEW.search(str(model)) is not None)
    yield from _block_problems(body.get("system", ""), "system", ("text",))
    if str(body).count("'cache_control':") > _MOST_MARKS:
        yield f"A maximum of {_MOST_MARKS} blocks with cache_control may be provided."
    yield from _output_problems(body.get("output_config", {}))
    yield from _tool_problems(body, forced=_NEVER_FORCED.search(str(model)) is None)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _message_problems(messages: object, *, new: bool) -> Iterator[str]:
    if not isinstance(messages, list) or not messages:
        yield "messages: at least one message is required"
        return
    turns = cast("list[dict[str, Any]]", messages)
    for place, turn in enumerate(turns):
        where, role = f"messages.{place}", turn.get("role")
        if role not in ("user", "assistant") or turn.keys() != {"role", "content"}:
            yield f"{where}: a message has a role, 'user' or 'assistant', and content"
        allowed = ("text", "image", "document") if role == "user" else ("text",)
        yield from _block_problems(turn.get("content"), f"{where}.content", allowed)
        if not turn.get("content"):
            yield f"{where}: text content blocks must be non-empty"
    if turns[0].get("role") != "user":
        yield 'messages: first message must use the "user" role'
    if new and turns[-1].get("role") == "assistant":
        yield "messages: this model does not support assistant message prefill"


def _block_problems(content: object, where: str, allowed: tuple[str, ...]) -> Iterator[str]:
    if isinstance(content, str):
        return
    if not isinstance(content, list):
        yield f"{where}: Input should be a string or a list"
        return
    for place, block in enumerate(cast("list[dict[str, Any]]", content)):
        here = f"{where}.{place}"
        if block.get("type") not in allowed:
            yield f"{here}.type: Input should be one of {', '.join(allowed)}"
        if block.get("cache_control", {"type": "ephemeral"}).get("type") != "ephemeral":
            yield f"{here}.cache_control.type: Input should be 'ephemeral'"
        known = {"type", "cache_control", "text" if block.get("type") == "text" else "source"}
        for name in block.keys() - known:
            yield f"{here}.{name}: Extra inputs are not permitted"
        if block.get("type") == "text" and not str(block.get("text") or "").strip():
            yield f"{here}: text content blocks must contain non-whitespace text"
        if block.get("type") in ("image", "document"):
            yield from _source_problems(block["type"], block.get("source", {}), here)


def _source_problems(kind: str, source: Mapping[str, Any], where: str) -> Iterator[str]:
    if source.get("type") == "url":
        if set(source) != {"type", "url"} or not str(source["url"]).startswith("https://"):
            yield f"{where}.source.url: Only HTTPS URLs are supported"
        return
    if set(source) != {"type", "media_type", "data"}:
        yield f"{where}.source: a type, a media_type and data are required"
        return
    plain = kind == "document" and source["type"] == "text" and source["media_type"] == "text/plain"
    types = _IMAGES if kind == "image" else ("application/pdf",)
    if not plain and (source["type"] != "base64" or source["media_type"] not in types or not source["data"]):
        yield f"{where}.source.media_type: Input should be one of {', '.join(types)}"


def _output_problems(config: Mapping[str, Any]) -> Iterator[str]:
    for name in config.keys() - {"effort", "format"}:
        yield f"output_config.{name}: Extra inputs are not permitted"
    if config.get("effort", "low") not in _EFFORTS:
        yield f"output_config.effort: Input should be one of {', '.join(_EFFORTS)}"
    if (wanted := config.get("format")) is not None:
        if wanted.get("type") != "json_schema" or wanted.keys() != {"type", "schema"}:
            yield "output_config.format: Input should have the type 'json_schema' and a schema"
        yield from _schema_problems(wanted.get("schema"), "output_config.format.schema")


def _tool_problems(body: Mapping[str, Any], *, forced: bool) -> Iterator[str]:
    tools = cast("list[dict[str, Any]]", body.get("tools", []))
    for place, tool in enumerate(tools):
        where = f"tools.{place}"
        for name in tool.keys() - {"name", "description", "input_schema", "strict", "cache_control"}:
            yield f"{where}.{name}: Extra inputs are not permitted"
        if not _NAME.match(str(tool.get("name", ""))):
            yield f"{where}.name: String should match pattern '^[a-zA-Z0-9_-]{{1,128}}$'"
        schema = tool.get("input_schema", {})
        if schema.get("type") != "object":
            yield f"{where}.input_schema.type: Field required"
        if tool.get("strict"):
            yield from _schema_problems(schema, f"{where}.input_schema")
    choice = cast("dict[str, Any]", body.get("tool_choice", {}))
    if choice.get("type") in ("tool", "any") and not forced:
        yield "tool_choice: forced tool use is not supported by this model"
    if choice.get("type") == "tool" and choice.get("name") not in [tool.get("name") for tool in tools]:
        yield f"tool_choice.name: Tool {choice.get('name')!r} not found in provided tools"


def _schema_problems(node: object, where: str) -> Iterator[str]:
    if not isinstance(node, dict):
        yield f"{where}: a schema must be an object"
        return
    schema = cast("dict[str, Any]", node)
    kind = schema.get("type")
    if refused := sorted(schema.keys() - _KEYWORDS):
        yield f"{where}: For '{kind}' type, properties {', '.join(refused)} are not supported"
    if not {"type", "enum", "const", "anyOf", "allOf", "$ref"} & schema.keys() or (kind and kind not in _TYPES):
        yield f"{where}: a schema must have one of the types {', '.join(sorted(_TYPES))}"
    if schema.get("format", "date") not in _FORMATS:
        yield f"{where}: For 'string' type, the format {schema['format']!r} is not supported"
    if schema.get("minItems", 0) not in (0, 1):
        yield f"{where}: For 'array' type, 'minItems' values other than 0 or 1 are not supported"
    if kind == "object" and schema.get("additionalProperties") is not False:
        yield f"{where}: For 'object' type, 'additionalProperties' must be explicitly set to false"
    if not set(schema.get("required", ())) <= set(schema.get("properties", {})):
        yield f"{where}: 'required' names a property that is not there"
    for place, inner in _children(schema):
        yield from _schema_problems(inner, f"{where}.{place}")


def _children(schema: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    for word in ("properties", "$defs"):
        for name, inner in schema.get(word, {}).items():
            yield f"{word}.{name}", inner
    for word in ("anyOf", "allOf"):
        for place, inner in enumerate(schema.get(word, ())):
            yield f"{word}.{place}", inner
    if "items" in schema:
        yield "items", schema["items"]
