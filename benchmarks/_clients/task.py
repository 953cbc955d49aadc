"""The task that every client is given: a text becomes a label and a score."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

MODEL = "gpt-4o-mini"  # a name that all of them know
KEY = "sk-benchmark"
INSTRUCTION = "Tell whether a message is good, bad or neutral news for the shop, and how sure you are, from 0 to 1."
MOST_AT_ONCE = 1_000


class Judgement(BaseModel):
    label: Literal["good", "bad", "neutral"]
    score: Annotated[float, Field(ge=0, le=1)]


Judge = Callable[[str], Awaitable[Any]]

RESPONSE_FORMAT = {
    "type": "json_schema",
    "json_schema": {
        "name": "judgement",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {
                "label": {"type": "string", "enum": ["good", "bad", "neutral"]},
                "score": {"type": "number", "minimum": 0, "maximum": 1},
            },
            "required": ["label", "score"],
            "additionalProperties": False,
        },
    },
}


def messages(text: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": text}]


def body(text: str) -> dict[str, Any]:
    """The request as somebody would write it who has only an HTTP client."""
    return {"model": MODEL, "messages": messages(text), "response_format": RESPONSE_FORMAT}


def judgement(answer: bytes) -> Judgement:
    """The answer as somebody would read it who has only an HTTP client and pydantic."""
    return Judgement.model_validate_json(json.loads(answer)["choices"][0]["message"]["content"])
