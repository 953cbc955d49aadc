"""OpenAI's Decisions API: one choice of a short list, with probabilities, for the price of its input."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NotRequired, cast
from weakref import WeakKeyDictionary

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from tanuki_async._errors import RefusalError
from tanuki_async._records import Completion, Decision, Head, JsonSchema, JsonValue, Reply, Request, Turn
from tanuki_async.providers._answers import no_answer
from tanuki_async.providers._bodies import Bodies, quote
from tanuki_async.providers._rates import rate_from
from tanuki_async.providers._responses import ResponsesUsage, usage_from

DECIDERS = frozenset({"gpt-6-luna"})
"""Models that decide."""
MOST_CHOICES = 255
MOST_LEVELS = 11
"""Integers that count as a scale; more are asked for in writing."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of an answer's schema: which values there are, by the label that each has on the wire."""

    values: Mapping[str, JsonValue]
    scale: bool = False  # the values are integers in order

    @property
    def yes_or_no(self) -> bool:
        """Whether it is answered by one probability."""
        return list(self.values.values()) == [True, False]

    def fields(self, function: str) -> dict[str, JsonValue]:
        """Write it as the endpoint takes it."""
        told = f"What {function}() returns for the last message."
        if self.yes_or_no:
            return {"type": "predicate", "name": "value", "instructions": f"{told} True: it returns true."}
        if self.scale:
            levels: list[JsonValue] = [{"label": label} for label in self.values]
            return {"type": "score", "name": "value", "instructions": told, "levels": levels}
        choices: list[JsonValue] = [{"value": label} for label in self.values]
        return {"type": "choice", "name": "value", "instructions": told, "choices": choices}


def question_of(schema: JsonSchema) -> Question | None:
    """Read from the schema of an answer which values it may have; None where they are no short list."""
    properties = schema.get("properties")
    if not isinstance(properties, dict) or properties.keys() != {"value"}:
        return None
    defs = schema.get("$defs")
    values = _values(properties["value"], defs if isinstance(defs, dict) else {})
    if values is None or not 2 <= len(values) <= MOST_CHOICES:
        return None
    if sorted(map(repr, values)) == ["False", "True"]:
        return Question({"true": True, "false": False})
    numbers = [value for value in values if type(value) is int]
    if len(numbers) == len(values):
        return Question({str(number): number for number in sorted(numbers)}, scale=len(numbers) <= MOST_LEVELS)
    plain = [value if isinstance(value, str) else json.dumps(value) for value in values]
    labels = plain if len(set(plain)) == len(plain) and all(plain) else [json.dumps(value) for value in values]
    return Question(dict(zip(labels, values, strict=True)))


def _values(schema: JsonValue, defs: Mapping[str, JsonValue]) -> list[JsonValue] | None:
    if not isinstance(schema, dict):
        return None
    if isinstance(reference := schema.get("$ref"), str):
        return _values(defs.get(reference.rpartition("/")[2]), {})
    if isinstance(branches := schema.get("anyOf"), list):
        found = [_values(branch, defs) for branch in branches]
        return None if None in found else [value for each in found for value in each or ()]
    if isinstance(listed := schema.get("enum"), list):
        return listed
    if "const" in schema:
        return [schema["const"]]
    if schema.get("type") in ("boolean", "null"):
        return [True, False] if schema["type"] == "boolean" else [None]
    return _range(schema) if schema.get("type") == "integer" else None


def _range(schema: JsonSchema) -> list[JsonValue] | None:
    bounds = {name: value for name, value in schema.items() if type(value) is int}
    low = bounds.get("minimum", bounds.get("exclusiveMinimum", 0) + 1 if "exclusiveMinimum" in bounds else None)
    high = bounds.get("maximum", bounds.get("exclusiveMaximum", 0) - 1 if "exclusiveMaximum" in bounds else None)
    if low is None or high is None or high - low >= MOST_LEVELS or "multipleOf" in schema:
        return None
    return list(range(low, high + 1))


@dataclass(slots=True)
class _Encoded:
    model: str
    question: Question
    begin: bytes
    end: bytes


class DecisionBodies:
    """Makes the bodies of questions. Keeps what stays the same for as long as its head lives."""

    def __init__(self) -> None:
        self._kept: WeakKeyDictionary[Head, _Encoded | None] = WeakKeyDictionary()

    def encode(self, request: Request) -> tuple[Question, bytes] | None:
        """Write one question; None where it is none: its answer is not closed, or it is more than a text."""
        head, (turn, *more) = request.head, request.turns
        if more or turn.attachments:
            return None
        if head not in self._kept:
            self._kept[head] = _encoded(head, request.model.name)
        kept = self._kept[head]
        if kept is None:
            return None
        return kept.question, b"".join((kept.begin, *_message(turn), kept.end))

    def give_up(self, head: Head) -> None:
        """Ask no more of these questions."""
        self._kept[head] = None


def _encoded(head: Head, model: str) -> _Encoded | None:
    question = question_of(head.answer.schema)
    if question is None or any(turn.attachments for turn in head.examples):
        return None
    begin = [b'{"model":', quote(model), b',"input":[{"role":"developer","content":', quote(head.system), b"}"]
    end = b'],"questions":' + json.dumps([question.fields(head.function)]).encode("ascii") + b"}"
    examples = [part for turn in head.examples for part in _message(turn)]
    return _Encoded(model, question, b"".join((*begin, *examples)), end)


def _message(turn: Turn) -> tuple[bytes, ...]:
    return Bodies.roles[turn.role], quote(turn.text), b"}"


class _Probability(TypedDict):
    probability: float
    value: NotRequired[str | bool | float]  # of a score: a number beside the label
    label: NotRequired[str]


class _Answer(TypedDict, total=False):
    type: str
    probability: float
    probabilities: list[_Probability]


class _Decisions(TypedDict, total=False):
    answers: list[_Answer]
    usage: ResponsesUsage | None


@cache
def _decisions() -> TypeAdapter[_Decisions]:
    return TypeAdapter(_Decisions)


def decision_from(
    reply: Reply, question: Question, *, provider: str, model: str, secrets: Sequence[str] = ()
) -> Decision:
    """Read an answer with status 200. RefusalError where the question was not answered."""
    request_id = reply.headers.get("x-request-id")
    try:
        told = _decisions().validator.validate_json(reply.body)
        answer = told["answers"][0]
        if answer.get("type") == "refusal":
            raise RefusalError("the model declined to decide", provider, model, None, request_id)
        probabilities = _probabilities(answer, question)
        value = max(probabilities, key=lambda each: each[1])[0]
    except (ValidationError, KeyError, IndexError, ValueError) as error:
        raise no_answer(reply, b'"error"' in reply.body[:200], provider, model, secrets) from error
    return Decision(
        value=value,
        probabilities=probabilities,
        usage=usage_from(told.get("usage")),
        request_id=request_id,
        rate=rate_from(reply.headers),
    )


def completion_of(decision: Decision, model: str) -> Completion:
    """Say what was decided as an answer in writing would."""
    return Completion(
        text=json.dumps({"value": decision.value}),
        usage=decision.usage,
        model=model,
        request_id=decision.request_id,
        rate=decision.rate,
    )


def _probabilities(answer: _Answer, question: Question) -> tuple[tuple[JsonValue, float], ...]:
    """Every value with its probability. KeyError for a label that was not asked for."""
    if question.yes_or_no:
        yes = answer.get("probability")
        return () if yes is None else ((True, yes), (False, 1 - yes))
    found = answer.get("probabilities", [])
    labels = [cast("str", each.get("label" if question.scale else "value")) for each in found]
    return tuple((question.values[label], each["probability"]) for label, each in zip(labels, found, strict=True))
