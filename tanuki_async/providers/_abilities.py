"""What a server turned out to take, learned one refused parameter at a time."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from tanuki_async._errors import RequestRejectedError
from tanuki_async._records import Model, Structured

Dialect = Literal["openai_strict", "openai_strict_ft", "anthropic", "plain"]
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
)
"""Fields that a request can do without."""

_STREAMING = ("stream_options", "stream")
_KNOWN = "|".join((*OPTIONAL, *_STREAMING, "max_tokens", "max_completion_tokens"))

_REFUSED_CODES = frozenset({"unsupported_parameter", "unsupported_value", "unknown_parameter"})
_REFUSED_WORDS = re.compile(
    r"unsupported|not (?:currently )?support|(?:un|not )recogni[sz]ed|unknown|unexpected|extra (?:inputs|fields)"
    r"|not permitted|not allowed|not available|unavailable|not implemented|only .{0,40}support|use '\w+' instead",
    re.IGNORECASE,
)
_BROKEN_SCHEMA = re.compile(r"invalid (?:json )?schema|schema is invalid", re.IGNORECASE)
_LOWER: dict[Structured, Structured] = {"json_schema": "json_object", "json_object": "none"}


@dataclass(frozen=True, slots=True)
class Abilities:
    """What is sent to one model of one server. Compared by identity where speed counts."""

    structured: Structured
    role: Role
    token_field: TokenField | None
    dialect: Dialect = "openai_strict"
    dropped: frozenset[str] = frozenset()
    renamed: bool = False  # the token field was exchanged once

    @classmethod
    def of(cls, model: Model, *, dropped: frozenset[str] = frozenset()) -> Abilities:
        """Assume what the model's description says."""
        tuned = model.name.startswith("ft:")
        return cls(
            structured=model.structured,
            role=model.instruction_role,
            token_field=model.token_field,
            dialect="openai_strict_ft" if tuned else "openai_strict",
            dropped=dropped,
        )

    def without(self, error: RequestRejectedError, body: bytes) -> tuple[Abilities, str] | None:
        """Give way to what a 400 or 422 says of `body`: (the new abilities, what was given up), or None.

        None also where the complaint is not about something that the server does not know, but about its value.
        """
        if error.status not in (400, 422) or not refuses(error):
            return None
        message, parameter = error.message.lower(), (error.parameter or "").lower()
        for field in (self.token_field, *OPTIONAL, *_STREAMING):
            if field and _names(field, parameter, message) and f'"{field}":'.encode() in body:
                return self._less(field)
        if _is_about(("response_format", "json_schema", "json_object", "structured output"), parameter, message):
            lower = None if _BROKEN_SCHEMA.search(message) else _LOWER.get(self.structured)
            return lower and (replace(self, structured=lower), f"response_format {self.structured!r}")
        if self.role == "developer" and ("developer" in message or parameter.endswith("role")):
            return replace(self, role="system"), "the role 'developer'"
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
        return parameter == field
    found = re.search(rf"\b({_KNOWN})\b", message)
    return found is not None and found.group(1) == field


def _is_about(words: tuple[str, ...], parameter: str, message: str) -> bool:
    return any(parameter.startswith(word) for word in words) or any(word in message for word in words)
