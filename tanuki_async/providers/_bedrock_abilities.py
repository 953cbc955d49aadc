"""What a model on Bedrock turned out to take, learned one refused field at a time."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from tanuki_async._errors import RequestRejectedError
from tanuki_async._records import Attached, Model, Structured
from tanuki_async.providers._bedrock_models import takes_no_sampling

_FIELDS = {
    "topP": re.compile(r"\btop_?p\b", re.IGNORECASE),
    "temperature": re.compile(r"\btemperature\b", re.IGNORECASE),
    "stopSequences": re.compile(r"\bstop[_ ]?sequences?\b", re.IGNORECASE),
    "effort": re.compile(r"\beffort\b", re.IGNORECASE),
    "system": re.compile(r"\bsystem (?:message|prompt|field|role)s?\b|\bfield: system\b", re.IGNORECASE),
}
_FORM = re.compile(r"output_?config|text_?format|output_?format|structured output|json_?schema", re.IGNORECASE)
_TOOL = re.compile(r"tool_?config|tool_?choice|\btools?\b", re.IGNORECASE)
_REFUSED = re.compile(
    r"(?:n['’]t|not) (?:currently )?support|unsupported|deprecated|extraneous|extra inputs|not permitted|not allowed"
    r"|not available|unknown|unrecognized|cannot both be",
    re.IGNORECASE,
)
_TAKES_NONE: dict[Attached, re.Pattern[str]] = {
    kind: re.compile(
        rf"(?:n['’]t|not) (?:currently )?support (?:the {kind} (?:content block|field)\b|"
        rf"{kind}s?(?: inputs?)?(?=$|[.,;:!]))",
        re.IGNORECASE,
    )
    for kind in ("image", "document")
}
"""How it says that a model looks at none at all. What it says of a broken one is other words."""
_BROKEN_SCHEMA = re.compile(r"(?:invalid|malformed) (?:json |tool |input )*schema|schema is invalid", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Taken:
    """What is sent to one model. Compared by identity where speed counts."""

    structured: Structured
    dropped: frozenset[str] = frozenset()
    untaken: frozenset[Attached] = frozenset()  # what it turned out not to look at

    @classmethod
    def of(cls, model: Model) -> Taken:
        """Assume what the model's description says."""
        dropped = frozenset({"temperature", "topP"}) if takes_no_sampling(model.name) else frozenset[str]()
        return cls(structured=model.structured, dropped=dropped)

    def without(self, error: RequestRejectedError, body: bytes) -> tuple[Taken, str] | None:
        """Give way to what a 400 says of `body`: (what is sent from now on, what was given up), or None.

        None also where the complaint is about a value, not about something that the model does not know.
        """
        message = error.message
        if error.status != 400 or not _REFUSED.search(message) or _BROKEN_SCHEMA.search(message):
            return None
        for kind, takes_none in _TAKES_NONE.items():
            if takes_none.search(message) and f'{{"{kind}":{{'.encode() in body:
                return replace(self, untaken=self.untaken | {kind}), f"{kind}s"
        for name, pattern in _FIELDS.items():
            if pattern.search(message) and f'"{name}":'.encode() in body:
                return replace(self, dropped=self.dropped | {name}), repr(name)
        if _FORM.search(message) and self.structured == "json_schema":
            return replace(self, structured="tool"), "'outputConfig'"
        if _TOOL.search(message) and self.structured == "tool":
            return replace(self, structured="none"), "a tool that it must use"
        return None
