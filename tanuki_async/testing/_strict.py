"""What OpenAI refuses with a 400: fields a model does not take, and schemas outside the strict subset."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, cast

from tanuki_async.testing.answers import tokens

# fmt: off
_FIELDS = frozenset((
    "audio", "frequency_penalty", "function_call", "functions", "logit_bias", "logprobs", "max_completion_tokens",
    "max_tokens", "messages", "metadata", "modalities", "model", "n", "parallel_tool_calls", "prediction",
    "presence_penalty", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "reasoning_effort",
    "response_format", "safety_identifier", "seed", "service_tier", "stop", "store", "stream", "stream_options",
    "temperature", "tool_choice", "tools", "top_logprobs", "top_p", "user", "verbosity", "web_search_options",
))
_REASONING = re.compile(r"(ft:)?(gpt-[5-9]|o\d)")
_NEVER_NONE = re.compile(r"gpt-6(\.2)?-astra|gpt-6\.[12]-sol|o\d")
_ROLES = ("developer", "system", "user", "assistant", "tool")
_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
_SAMPLING = ("temperature", "top_p", "logprobs", "top_logprobs", "frequency_penalty", "presence_penalty")
_FORMATS = frozenset(("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"))
_KEYWORDS = frozenset((
    "type", "enum", "const", "anyOf", "$defs", "$ref", "definitions", "description", "title", "properties",
    "required", "additionalProperties", "items", "pattern", "format", "multipleOf", "minimum", "maximum",
    "exclusiveMinimum", "exclusiveMaximum", "minItems", "maxItems",
))
_CONSTRAINTS = frozenset((
    "pattern", "format", "multipleOf", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minItems",
    "maxItems",
))
# fmt: on
_IMAGE = re.compile(r"https://\S+\Z|data:image/(png|jpeg|gif|webp);base64,[A-Za-z0-9+/]+=*\Z")
_PDF = re.compile(r"data:application/pdf;base64,[A-Za-z0-9+/]+=*\Z")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_MOST_PROPERTIES, _DEEPEST, _MOST_NAMES, _MOST_ENUM = 5000, 10, 120_000, 1000


class RefusedError(Exception):
    """The server would answer 400; `param` and `code` are what its error body names."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message, param, code)
        self.message, self.param, self.code = message, param, code


def check_chat(body: Mapping[str, Any]) -> None:
    """Raise RefusedError where OpenAI would answer 400 to this chat request."""
    for name in body:
        if name not in _FIELDS:
            raise RefusedError(f"Unrecognized request argument supplied: {name}", name, "unknown_parameter")
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise RefusedError("you must provide a model parameter", "model")
    _check_messages(body.get("messages"))
    (_check_reasoning if _REASONING.match(model) else _check_plain)(model, body)
    _check_ranges(body)
    if (wanted := body.get("response_format")) is not None:
        _check_format(wanted, body, tuned=model.startswith("ft:"))


def check_embedding(body: Mapping[str, Any]) -> None:
    """Raise RefusedError where OpenAI would answer 400 to this request for embeddings."""
    texts = body.get("input")
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list) or not texts:
        raise RefusedError("'input' must be a string or a non-empty list", "input")
    if len(cast("list[object]", texts)) > 2048:
        raise RefusedError("'input' has more than 2048 entries", "input")
    if not all(cast("list[object]", texts)):
        raise RefusedError("'input' cannot be an empty string", "input")
    sizes = [tokens(each) for each in cast("list[object]", texts) if isinstance(each, str)]
    if max(sizes, default=0) > 8192:
        place = next(place for place, size in enumerate(sizes) if size > 8192)
        raise RefusedError(f"Invalid 'input[{place}]': maximum context length is 8192 tokens.", "input")
    if sum(sizes) > 300_000:
        raise RefusedError(f"Requested {sum(sizes)} tokens, max 300000 tokens per request", "input")
    if "dimensions" in body and not str(body.get("model", "")).startswith("text-embedding-3"):
        raise RefusedError("This model does not support specifying dimensions.", "dimensions")


def _check_messages(messages: object) -> None:
    if not isinstance(messages, list) or not messages:
        raise RefusedError("Invalid 'messages': empty array.", "messages", "empty_array")
    for place, found in enumerate(cast("list[object]", messages)):
        where, message = f"messages[{place}]", _mapping(found)
        if message.get("role") not in _ROLES:
            raise RefusedError(f"Invalid value: {where}.role", f"{where}.role", "invalid_value")
        if not isinstance(message.get("content"), str | list):
            raise RefusedError(f"Invalid value for '{where}.content'", f"{where}.content", "invalid_type")
        if isinstance(content := message["content"], list):
            for index, part in enumerate(cast("list[object]", content)):
                _check_part(_mapping(part), f"{where}.content[{index}]", message["role"])


def _check_part(part: Mapping[str, Any], where: str, role: str) -> None:
    kind = part.get("type")
    allowed = ("text", "image_url", "file") if role == "user" else ("text",)
    if kind not in allowed:
        raise RefusedError(
            f"Invalid value: {kind!r}. Supported values are: {allowed}.", f"{where}.type", "invalid_value"
        )
    if kind == "text" and not isinstance(part.get("text"), str):
        raise RefusedError(f"Missing required parameter: '{where}.text'.", f"{where}.text")
    if kind == "image_url" and not _IMAGE.match(str(_mapping(part.get("image_url")).get("url"))):
        raise RefusedError("Invalid image_url: a https: URL or base64 data.", f"{where}.image_url.url", "invalid_value")
    if kind == "file":
        told = _mapping(part.get("file"))
        if not told.get("filename") or not _PDF.match(str(told.get("file_data"))):
            raise RefusedError("Invalid file: a name and base64 data of a PDF.", f"{where}.file", "invalid_value")


def _mapping(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _check_reasoning(model: str, body: Mapping[str, Any]) -> None:
    if "max_tokens" in body:
        raise _unsupported("max_tokens", " Use 'max_completion_tokens' instead.")
    if "stop" in body:
        raise _unsupported("stop")
    effort = body.get("reasoning_effort") or "medium"
    refused = {"minimal"} | ({"none"} if _NEVER_NONE.match(model) else set[str]())
    if effort not in _EFFORTS or effort in refused:
        supported = ", ".join(repr(e) for e in _EFFORTS if e not in refused)
        raise RefusedError(
            f"Unsupported value: {effort!r} is not supported with the {model!r} model. "
            f"Supported values are: {supported}.",
            "reasoning_effort",
            "unsupported_value",
        )
    if effort != "none":
        for name in _SAMPLING:
            if body.get(name) is not None:
                raise _unsupported(name)


def _check_plain(model: str, body: Mapping[str, Any]) -> None:
    if "reasoning_effort" in body:
        raise _unsupported("reasoning_effort")
    if "max_tokens" in body and "max_completion_tokens" in body:
        raise RefusedError(f"{model}: set either max_tokens or max_completion_tokens, not both", "max_tokens")


def _unsupported(name: str, more: str = "") -> RefusedError:
    return RefusedError(
        f"Unsupported parameter: '{name}' is not supported with this model.{more}", name, "unsupported_parameter"
    )


def _check_ranges(body: Mapping[str, Any]) -> None:
    bounds = {"temperature": (0, 2), "top_p": (0, 1), "frequency_penalty": (-2, 2), "presence_penalty": (-2, 2)}
    for name, (low, high) in bounds.items():
        value = body.get(name)
        if value is not None and not (isinstance(value, int | float) and low <= value <= high):
            raise RefusedError(f"Invalid '{name}': must be between {low} and {high}.", name, "decimal_out_of_range")
    for name in ("max_tokens", "max_completion_tokens"):
        value = body.get(name)
        if value is not None and not (isinstance(value, int) and value >= 1):
            raise RefusedError(f"Invalid '{name}': must be at least 1.", name, "integer_below_min_value")
    stop = body.get("stop")
    if isinstance(stop, list) and len(cast("list[object]", stop)) > 4:
        raise RefusedError("Invalid 'stop': at most 4 sequences.", "stop", "array_above_max_length")


def _check_format(wanted: object, body: Mapping[str, Any], *, tuned: bool) -> None:
    kind = _mapping(wanted).get("type")
    if kind == "json_object":
        if "json" not in str(body["messages"]).lower():
            raise RefusedError("'messages' must contain the word 'json' in some form.", "messages")
    elif kind == "json_schema":
        spec = _mapping(_mapping(wanted).get("json_schema"))
        name = spec.get("name")
        if not isinstance(name, str) or not _NAME.match(name):
            raise RefusedError("Invalid 'response_format.json_schema.name'", "response_format.json_schema.name")
        if spec.get("strict"):
            check_schema(name, spec.get("schema"), tuned=tuned)
    elif kind != "text":
        raise RefusedError(f"Invalid value: {kind!r}", "response_format.type", "invalid_value")


def check_schema(name: str, schema: Any, *, tuned: bool = False) -> None:
    """Raise RefusedError where `schema` is outside the strict subset, or the smaller one of `tuned` models."""
    problem = next(_problems(schema, tuned), None)
    if problem is not None:
        raise RefusedError(f"Invalid schema for response_format '{name}': {problem}", "response_format")


def _problems(schema: Any, tuned: bool) -> Iterator[str]:
    if not isinstance(schema, dict) or cast("dict[str, Any]", schema).get("type") != "object":
        yield "schema must be a JSON Schema of 'type: \"object\"'"
        return
    root = cast("dict[str, Any]", schema)
    counts = {"properties": 0, "names": 0, "enum": 0}
    yield from _walk(root, root, (), 0, tuned, counts)
    if counts["properties"] > _MOST_PROPERTIES:
        yield f"more than {_MOST_PROPERTIES} properties"
    if counts["names"] > _MOST_NAMES:
        yield f"names and values have more than {_MOST_NAMES} characters"
    if counts["enum"] > _MOST_ENUM:
        yield f"more than {_MOST_ENUM} enum values"


def _walk(
    node: Any, root: dict[str, Any], where: tuple[str, ...], depth: int, tuned: bool, counts: dict[str, int]
) -> Iterator[str]:
    if not isinstance(node, dict):
        yield f"In context={where!r}, a schema must be an object"
        return
    schema = cast("dict[str, Any]", node)
    yield from _keyword_problems(schema, root, where, tuned)
    if depth > _DEEPEST:
        yield f"In context={where!r}, more than {_DEEPEST} levels of nesting"
        return
    if schema.get("type") == "object" or "properties" in schema:
        yield from _object_problems(schema, where)
    _count(schema, counts)
    for place, inner in _children(schema):
        deeper = depth + (0 if place[0] in ("$defs", "definitions", "anyOf") else 1)
        yield from _walk(inner, root, where + place, deeper, tuned, counts)


def _keyword_problems(
    schema: dict[str, Any], root: dict[str, Any], where: tuple[str, ...], tuned: bool
) -> Iterator[str]:
    for word in schema:
        if word not in _KEYWORDS or (tuned and word in _CONSTRAINTS):
            yield f"In context={where!r}, '{word}' is not permitted."
    if "anyOf" in schema and not where:
        yield "schema must not have 'anyOf' at its root"
    if "$ref" in schema:
        if len(schema) > 1 and where:
            yield f"In context={where!r}, $ref cannot have keywords {sorted(set(schema) - {'$ref'})}."
        if not _resolves(schema["$ref"], root):
            yield f"In context={where!r}, reference {schema['$ref']!r} cannot be resolved"
    elif not {"type", "enum", "const", "anyOf"} & set(schema):
        yield f"In context={where!r}, schema must have a 'type' key."
    if "format" in schema and schema["format"] not in _FORMATS:
        yield f"In context={where!r}, format {schema['format']!r} is not permitted."
    if schema.get("type") == "array" and "items" not in schema:
        yield f"In context={where!r}, array schema missing items."


def _object_problems(schema: dict[str, Any], where: tuple[str, ...]) -> Iterator[str]:
    if schema.get("additionalProperties") is not False:
        yield f"In context={where!r}, 'additionalProperties' is required to be supplied and to be false."
    if sorted(schema.get("required", ())) != sorted(schema.get("properties", {})):
        yield f"In context={where!r}, 'required' is required to be supplied and to include every key in properties."


def _count(schema: dict[str, Any], counts: dict[str, int]) -> None:
    names = list(schema.get("properties", {})) + list(schema.get("$defs", {}))
    values = [*schema.get("enum", ()), *([schema["const"]] if "const" in schema else [])]
    counts["properties"] += len(schema.get("properties", {}))
    counts["enum"] += len(schema.get("enum", ()))
    counts["names"] += sum(len(str(text)) for text in [*names, *values])


def _children(schema: dict[str, Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for word in ("properties", "$defs", "definitions"):
        for name, inner in schema.get(word, {}).items():
            yield (word, name), inner
    for place, inner in enumerate(schema.get("anyOf", ())):
        yield ("anyOf", str(place)), inner
    if "items" in schema:
        yield ("items",), schema["items"]


def _resolves(reference: object, root: dict[str, Any]) -> bool:
    if not isinstance(reference, str) or not reference.startswith("#"):
        return False
    node: Any = root
    for part in reference[1:].split("/")[1:]:
        if not isinstance(node, dict) or part not in node:
            return False
        node = cast("dict[str, Any]", node)[part]
    return True
