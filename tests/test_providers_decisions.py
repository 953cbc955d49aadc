"""OpenAI's Decisions API: which answers it is asked for, what is sent, and what becomes of what it says."""

from __future__ import annotations

import enum
import json
import logging
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, TypeAdapter

import tanuki_async as tanuki
from tanuki_async._codec.schema import wire
from tanuki_async._errors import (
    ProviderError,
    ProviderUnavailableError,
    RateLimitedError,
    RefusalError,
)
from tanuki_async._records import AnswerSchema, Head, JsonValue, Reply, Request, Turn, Usage
from tanuki_async.providers._decisions import Question, question_of
from tanuki_async.providers.openai import OpenAI
from tanuki_async.storage.memory import MemoryStorage
from tanuki_async.testing import FakeProvider, LoopbackServer, Value

TypeAdapter(int)  # pydantic looks for its plugins on disk, once; patched functions always come first

FIXTURE: dict[str, Any] = json.loads((Path(__file__).parent / "fixtures/openai/decisions_success.json").read_text())
KEY = "sk-very-secret-0123456789"


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Flagged(BaseModel):
    value: bool


def schema_of(annotation: Any) -> Any:
    return wire(TypeAdapter(annotation), name="f").answer.schema


@pytest.mark.parametrize(
    ("annotation", "question"),
    [
        (bool, Question({"true": True, "false": False})),
        (Flagged, Question({"true": True, "false": False})),
        (bool | None, Question({"true": True, "false": False, "null": None})),
        (Literal["a", "b"], Question({"a": "a", "b": "b"})),
        (Literal["a", "b"] | None, Question({"a": "a", "b": "b", "null": None})),
        (Literal["null", "b"] | None, Question({'"null"': "null", '"b"': "b", "null": None})),
        (Literal["", "b"], Question({'""': "", '"b"': "b"})),
        (Literal[True, "x"], Question({"true": True, "x": "x"})),
        (Color, Question({"red": "red", "blue": "blue"})),
        (Color | None, Question({"red": "red", "blue": "blue", "null": None})),
        (Level, Question({"1": 1, "2": 2}, scale=True)),
        (Annotated[int, Field(ge=1, le=3)], Question({"1": 1, "2": 2, "3": 3}, scale=True)),
        (Annotated[int, Field(gt=0, lt=3)], Question({"1": 1, "2": 2}, scale=True)),
        (Annotated[int, Field(gt=0, lt=3)] | None, Question({"1": 1, "2": 2, "null": None})),
        (Literal["x"], None),
        (Annotated[int, Field(ge=0, le=100)], None),
        (Annotated[int, Field(ge=0, le=6, multiple_of=2)], None),
        (int, None),
        (str, None),
        (set[Literal["a", "b"]], None),
        (Literal["a", "b"] | int, None),
    ],
    ids=str,
)
def test_answers_that_are_a_short_list_become_a_question(annotation: Any, question: Question | None) -> None:
    assert question_of(schema_of(annotation)) == question


# What is sent and what comes back


class Http:
    """Answers from a list, and keeps what was sent."""

    def __init__(self, *replies: Reply) -> None:
        self.replies = list(replies)
        self.sent: list[tuple[str, dict[str, Any]]] = []

    async def send(self, method: str, url: str, *, headers: Any, body: bytes | None = None) -> Reply:
        self.sent.append((url.removeprefix("https://api.openai.com"), json.loads(body or b"null")))
        return self.replies.pop(0)


def reply_of(body: Any, status: int = 200) -> Reply:
    return Reply(status=status, headers=FIXTURE["headers"], body=json.dumps(body).encode())


def answered(answer: dict[str, Any]) -> Reply:
    return reply_of({**FIXTURE["body"], "answers": [answer]})


def chat(text: str) -> Reply:
    return reply_of({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]})


def head_of(annotation: Any) -> Head:
    answer = AnswerSchema(name="f", schema=schema_of(annotation), strict=True)
    return Head(
        function="f", system="Decide.", answer=answer, examples=(Turn("user", "x"), Turn("assistant", '{"value":1}'))
    )


def ask(provider: OpenAI, annotation: Any = Literal["Good", "Bad"], *, model: str = "gpt-6-luna") -> Request:
    return Request(model=provider.model(model), head=head_of(annotation), turns=(Turn("user", "I love you"),))


async def test_the_recorded_answer_is_read_with_its_probabilities() -> None:
    provider, http = OpenAI(KEY, decisions=True), Http(reply_of(FIXTURE["body"]))
    decision = await provider.decide(ask(provider), http)
    assert decision is not None
    assert (decision.value, decision.probabilities) == ("Good", (("Good", 0.97), ("Bad", 0.03)))
    assert decision.usage == Usage(requests=1, input_tokens=88)
    assert decision.request_id == "req_0f3a1c5e7b9d2468"
    assert decision.rate is not None
    ((path, body),) = http.sent
    assert path == FIXTURE["request"]["path"]
    assert body == {
        "model": "gpt-6-luna",
        "input": [
            {"role": "developer", "content": "Decide."},
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": '{"value":1}'},
            {"role": "user", "content": "I love you"},
        ],
        "questions": [
            {
                "type": "choice",
                "name": "value",
                "instructions": "What f() returns for the last message.",
                "choices": [{"value": "Good"}, {"value": "Bad"}],
            }
        ],
    }


LEVELS = [{"label": str(n), "value": n, "probability": p} for n, p in ((1, 0.1), (2, 0.2), (3, 0.7))]


@pytest.mark.parametrize(
    ("annotation", "answer", "text"),
    [
        (bool, {"type": "predicate", "name": "value", "probability": 0.51}, '{"value": true}'),
        (bool, {"type": "predicate", "name": "value", "probability": 0.01}, '{"value": false}'),
        (
            bool | None,
            {"type": "choice", "choice": "null", "probabilities": [{"value": "null", "probability": 0.9}]},
            '{"value": null}',
        ),
        (Annotated[int, Field(ge=1, le=3)], {"type": "score", "score": 2.6, "probabilities": LEVELS}, '{"value": 3}'),
    ],
)
async def test_a_decision_is_an_answer_like_any_other(annotation: Any, answer: dict[str, Any], text: str) -> None:
    provider, http = OpenAI(KEY, decisions=True), Http(answered(answer))
    completion = await provider.complete(ask(provider, annotation), http)
    assert (completion.text, completion.truncated, completion.model) == (text, False, "gpt-6-luna")
    kinds = {bool: "predicate", bool | None: "choice"}
    assert http.sent[0][1]["questions"][0]["type"] == kinds.get(annotation, "score")


async def test_a_question_that_was_not_answered_is_a_refusal() -> None:
    provider = OpenAI(KEY, decisions=True)
    with pytest.raises(RefusalError, match="declined"):
        await provider.complete(ask(provider), Http(answered(FIXTURE["body"]["answers"][2])))


@pytest.mark.parametrize(
    "body",
    [
        {"answers": []},
        {},
        {"answers": [{"type": "choice", "probabilities": []}]},
        {"answers": [{"type": "choice", "probabilities": [{"value": "Other", "probability": 1.0}]}]},
        {"answers": [{"type": "choice", "probabilities": [{"value": [], "probability": 1.0}]}]},
        {"answers": "no"},
    ],
)
async def test_what_is_no_answer_is_the_providers_illness(body: Any) -> None:
    provider = OpenAI(KEY, decisions=True)
    with pytest.raises(ProviderUnavailableError, match="without an answer"):
        await provider.complete(ask(provider), Http(reply_of(body)))


async def test_an_error_is_an_error_like_any_other() -> None:
    provider = OpenAI(KEY, decisions=True)
    with pytest.raises(ProviderError) as caught:
        await provider.complete(ask(provider), Http(reply_of({"error": {"message": "slow"}}, 429)))
    assert type(caught.value) is RateLimitedError


@pytest.mark.parametrize(("status", "asked_again"), [(404, False), (403, False), (400, True), (422, True)])
async def test_where_it_is_not_offered_the_model_is_asked_in_writing_from_then_on(
    status: int, asked_again: bool, caplog: pytest.LogCaptureFixture
) -> None:
    provider = OpenAI(KEY, decisions=True)
    refusal = reply_of({"error": {"message": "not here"}}, status)
    http = Http(refusal, chat('{"value":"Good"}'), chat('{"value":"Bad"}'))
    request = ask(provider)
    assert (await provider.complete(request, http)).text == '{"value":"Good"}'
    assert (await provider.complete(request, http)).text == '{"value":"Bad"}'
    assert [path for path, _ in http.sent] == ["/v1/decisions", "/v1/chat/completions", "/v1/chat/completions"]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    http.replies.append(answered(FIXTURE["body"]["answers"][0]) if asked_again else chat('{"value":"Good"}'))
    await provider.complete(ask(provider), http)  # another function
    assert (http.sent[-1][0] == "/v1/decisions") is asked_again


@pytest.mark.parametrize(
    ("decisions", "model", "annotation"),
    [(False, "gpt-6-luna", bool), (True, "gpt-6-sol", bool), (True, "gpt-6-luna", str)],
)
async def test_all_else_is_asked_in_writing(decisions: bool, model: str, annotation: Any) -> None:
    provider, http = OpenAI(KEY, decisions=decisions), Http(chat("{}"))
    assert await provider.decide(ask(provider, annotation, model=model), http) is None
    assert http.sent == []
    await provider.complete(ask(provider, annotation, model=model), http)
    assert http.sent[0][0] == "/v1/chat/completions"


async def test_a_repair_is_asked_for_in_writing() -> None:
    provider, http = OpenAI(KEY, decisions=True), Http(chat("{}"))
    turns = (Turn("user", "a"), Turn("assistant", "b"), Turn("user", "c"))
    await provider.complete(Request(model=provider.model("gpt-6-luna"), head=head_of(bool), turns=turns), http)
    assert http.sent[0][0] == "/v1/chat/completions"


async def test_other_providers_do_not_decide() -> None:
    provider = FakeProvider()
    request = Request(model=provider.model("m"), head=head_of(bool), turns=(Turn("user", "a"),))
    assert await provider.decide(request, Http()) is None  # type: ignore[arg-type]


# Whole calls


@tanuki.patch
async def is_spam(text: str) -> bool:
    """Tell whether a message is spam."""


@tanuki.patch
async def title(text: str) -> str:
    """Give a message a title."""


async def test_a_patched_function_is_answered_by_decision_and_recorded_as_ever() -> None:
    asked: list[dict[str, JsonValue]] = []

    def decide(request: Any) -> JsonValue:
        asked.append(json.loads(request.body))
        probability = 0.9 if "prize" in asked[-1]["input"][-1]["content"] else 0.1  # type: ignore[call-overload,index]
        return {**FIXTURE["body"], "answers": [{"type": "predicate", "name": "value", "probability": probability}]}

    storage = MemoryStorage()
    async with LoopbackServer(Value("A title")) as server:
        server.route("POST", "/v1/decisions", decide)
        openai = OpenAI(KEY, server.url, decisions=True)
        async with tanuki.Tanuki(storage=storage, providers=[openai], teacher_models="openai:gpt-6-luna"):
            assert await is_spam("You won a prize")
            assert not await is_spam("See you at nine")
            assert await title("You won a prize") == "A title"
            status = await tanuki.status(is_spam)
            await tanuki.flush()
    assert len(asked) == 2
    assert status.usage.input_tokens == 176
    name = f"{tanuki.describe(is_spam).hash}/PATCHES"
    lines = [json.loads(line) async for batch in storage.scan(name) for line in batch]
    assert [(line["output"], line["model"]) for line in lines] == [
        (True, "openai:gpt-6-luna"), (False, "openai:gpt-6-luna")
    ]  # fmt: skip
