"""What a server turned out to take, learned one refused parameter at a time."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from tanuki_async._errors import RequestRejectedError
from tanuki_async._records import Attached, Model, SchemaDialect, Structured

Role = Literal["developer", "system"]
TokenField = Literal["max_tokens", "max_completion_tokens"]

OPTIONAL = (
    "temperature",
    "top_p",
    "seed",
    "stop",
    "frequency_penalty",
    "presence_penalty",
    "reasoning_effort",
    "reasoning",  # this one and the next are of the Responses API
    "max_output_tokens",
)
"""Fields that a request can do without."""

_STREAMING = ("stream_options", "stream")
_KNOWN = "|".join((*OPTIONAL, *_STREAMING, "max_tokens", "max_completion_tokens")).replace("|reasoning|", "|")
"""Names that a text may mention; `reasoning` is a word as well."""

_REFUSED_CODES = frozenset({"unsupported_parameter", "unsupported_value", "unknown_parameter"})
_REFUSED_WORDS = re.compile(
    r"unsupported|not (?:currently )?support|(?:un|not )recogni[sz]ed|unknown|unexpected|extra (?:inputs|fields)"
    r"|not permitted|not allowed|not available|unavailable|not implemented|only .{0,40}support|use '\w+' instead",
    re.IGNORECASE,
)
_BROKEN_SCHEMA = re.compile(r"invalid (?:json )?schema|schema is invalid", re.IGNORECASE)
_PARTS: dict[Attached, tuple[bytes, ...]] = {
    "image": (b'{"type":"image_url"', b'{"type":"input_image"'),
    "document": (b'{"type":"file"', b'{"type":"input_file"'),
}
_TAKES_NONE: dict[Attached, re.Pattern[str]] = {
    # OpenAI; vLLM; Ollama and others; OpenRouter; servers that know texts only
    "image": re.compile(
        r"image_url is only supported|not a (?:multimodal|vision)|at most 0 image|support image inputs?\b|"
        r"not (?:currently )?support (?:vision|multi-?modal|image_url|images?(?=$|[.,;:!(\]]))|"
        r"images? inputs? (?:is|are) not (?:supported|enabled)|"
        r"unknown variant .?image_url|content must be a string|input should be a valid string"
    ),
    "document": re.compile(
        r"file is only supported|support (?:file|document|pdf) inputs?\b|"
        r"not (?:currently )?support (?:file|document|pdf)s?(?=$|[.,;:!(\]])|"
        r"(?:file|document|pdf)s? inputs? (?:is|are) not (?:supported|enabled)|"
        r"unknown variant .?file|(?:unknown|unsupported|invalid) (?:part|content) type:? .?file|"
        r"content must be a string|input should be a valid string"
    ),
}
"""How servers say that a model looks at no images or documents at all. What they say of a broken one is other words."""
_LOWER: dict[Structured, Structured] = {"json_schema": "json_object", "json_object": "none"}


@dataclass(frozen=True, slots=True)
class Abilities:
    """What is sent to one model of one server. Compared by identity where speed counts."""

    structured: Structured
    role: Role
    token_field: TokenField | None
    dialect: SchemaDialect = "openai_strict"
    dropped: frozenset[str] = frozenset()
    renamed: bool = False  # the token field was exchanged once
    untaken: frozenset[Attached] = frozenset()  # what it turned out not to look at

    @classmethod
    def of(cls, model: Model, *, dropped: frozenset[str] = frozenset()) -> Abilities:
        """Assume what the model's description says."""
        return cls(
            structured=model.structured,
            role=model.instruction_role,
            token_field=model.token_field,
            dialect=model.schema_dialect,
            dropped=dropped,
        )

    def without(self, error: RequestRejectedError, body: bytes) -> tuple[Abilities, str] | None:
        """Give way to what a 400 or 422 says of `body`: (the new abilities, what was given up), or None.

        None also where the complaint is not about something that the server does not know, but about its value.
        """
        if (kind := self._refused_kind(error, body)) is not None:
            return replace(self, untaken=self.untaken | {kind}), f"{kind}s"
        if error.status not in (400, 422) or not refuses(error):
            return None
        message, parameter = error.message.lower(), (error.parameter or "").lower()
        for field in (self.token_field, *OPTIONAL, *_STREAMING):
            if field and _names(field, parameter, message) and f'"{field}":'.encode() in body:
                return self._less(field)
        if _is_about(
            ("response_format", "text.format", "json_schema", "json_object", "structured output"), parameter, message
        ):
            lower = None if _BROKEN_SCHEMA.search(message) else _LOWER.get(self.structured)
            return lower and (replace(self, structured=lower), f"response_format {self.structured!r}")
        if self.role == "developer" and ("developer" in message or parameter.endswith("role")):
            return replace(self, role="system"), "the role 'developer'"
        return None

    def _refused_kind(self, error: RequestRejectedError, body: bytes) -> Attached | None:
        """Tell which kind of attachment the model never takes; None where it is about something else."""
        if error.status not in (400, 404, 422):
            return None
        for kind, parts in _PARTS.items():
            if (
                any(part in body for part in parts)
                and kind not in self.untaken
                and _TAKES_NONE[kind].search(error.message.lower())
            ):
                return kind
        return None

    def _less(self, field: str) -> tuple[Abilities, str]:
        if field != self.token_field:
            return replace(self, dropped=self.dropped | {field}), repr(field)
        if self.renamed:
            return replace(self, token_field=None), repr(field)
        other: TokenField = "max_tokens" if field == "max_completion_tokens" else "max_completion_tokens"
        return replace(self, token_field=other, renamed=True), repr(field)


def refuses(error: RequestRejectedError) -> bool:
    """Tell whether a server says that it does not know something, rather than that a value is wrong."""
    return error.code in _REFUSED_CODES or _REFUSED_WORDS.search(error.message) is not None


def _names(field: str, parameter: str, message: str) -> bool:
    """Tell whether `field` is what the complaint is about: its parameter, or else the first known name in its text."""
    if parameter:
        return parameter.partition(".")[0] == field
    found = re.search(rf"\b({_KNOWN})\b", message)
    return found is not None and found.group(1) == field


def _is_about(words: tuple[str, ...], parameter: str, message: str) -> bool:
    return any(parameter.startswith(word) for word in words) or any(word in message for word in words)
