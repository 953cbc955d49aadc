"""What Claude models take, as far as their names say, and what one turned out not to take."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from tanuki_async._errors import RequestRejectedError
from tanuki_async._records import AnswerSchema, Attached, Model, Structured
from tanuki_async.providers._abilities import Abilities, refuses

_ALWAYS_THINKS = re.compile(r"claude-(?:sonnet|opus|fable)-5-[1-9]")
"""Models that refuse to be made to use a tool; Haiku and all that are older let themselves be."""
_FORMAT = re.compile(r"output_config\.format|output_format|json_schema|structured output|^output_config:")
_BROKEN_SCHEMA = re.compile(r"format\.schema|input_schema|invalid (?:json )?schema|schema is invalid")
_FIELDS = {"effort": b'"effort":', "stop_sequences": b'"stop_sequences":', "cache_control": b'"cache_control":'}
_STREAM = re.compile(r"\bstream(?:ing)?\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaudeAbilities(Abilities):
    """What is sent to one Claude model."""

    forces_tools: bool

    @classmethod
    def assumed(cls, model: Model) -> ClaudeAbilities:
        """Assume what the model's description and name say."""
        return cls(
            structured=model.structured,
            role="system",
            token_field="max_tokens",
            dialect="anthropic",
            forces_tools=_ALWAYS_THINKS.search(model.name) is None,
        )

    def without(self, error: RequestRejectedError, body: bytes) -> tuple[Abilities, str] | None:
        """Give way to what a 400 says of `body`: (the new abilities, what was given up), or None."""
        message = error.message.lower()
        if error.status not in (400, 422) or _BROKEN_SCHEMA.search(message):
            return None
        if "tool_choice" in message and b'"tool_choice":' in body:
            return replace(self, forces_tools=False), "'tool_choice'"
        if not refuses(error):
            return None
        if (kind := _not_seen(message, body)) is not None:
            return replace(self, untaken=self.untaken | {kind}), f"{kind}s"
        if self.structured == "json_schema" and b'"format":' in body and _FORMAT.search(message):
            lower: Structured = "tool" if self.forces_tools else "none"
            return replace(self, structured=lower), "'output_config.format'"
        for field, mark in _FIELDS.items():
            if mark in body and (field in message or (field == "effort" and message.startswith("output_config:"))):
                return replace(self, dropped=self.dropped | {field}), repr(field)
        if _STREAM.search(message) and body.endswith(b',"stream":true}'):
            return replace(self, dropped=self.dropped | {"stream"}), "'stream'"
        return None


def _not_seen(message: str, body: bytes) -> Attached | None:
    """Tell which kind of attachment a model does not take; None where the complaint is about something else."""
    kinds: tuple[tuple[Attached, bytes], ...] = (("image", b'{"type":"image"'), ("document", b'{"type":"document"'))
    for kind, part in kinds:
        named = rf"\b{kind}s?(?: inputs?| blocks?)?"
        if part in body and re.search(rf"{named} (?:is|are) not support|not support {named}(?=$|[.,;])", message):
            return kind
    return None


def form_of(answer: AnswerSchema, abilities: Abilities) -> Literal["json_schema", "tool", "none"]:
    """Tell how a model is made to answer in JSON: there is no JSON mode, and a schema must be a strict one."""
    forces_tools = isinstance(abilities, ClaudeAbilities) and abilities.forces_tools
    if abilities.structured == "json_schema" and answer.strict:
        return "json_schema"
    return "tool" if abilities.structured in ("json_schema", "tool") and forces_tools else "none"
