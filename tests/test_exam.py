"""Align functions as an evaluation of the model, over HTTP."""

from __future__ import annotations

from typing import Literal

import tanuki_async as tanuki
from tanuki_async import Tanuki
from tanuki_async._align import is_align
from tanuki_async._exam import Exam
from tanuki_async.providers.openai import OpenAICompatible
from tanuki_async.testing import LoopbackServer


@tanuki.patch
async def classify(text: str) -> Literal["good", "bad"] | None:
    """Classify the sentiment of a message, or None if it has none."""
    ...


@tanuki.align
async def lesson() -> None:
    cases = {"I love you": "good", "I hate you": "bad"}
    for text, expected in cases.items():
        assert await classify(text) == expected
    assert "good" == await classify("lovely")  # noqa: SIM300
    assert not await classify("a table")
    assert len(cases) == 2


@tanuki.align
async def with_a_parameter(text: str) -> None:
    assert await classify(text) == "good"


async def test_every_assert_is_judged_against_the_model_and_nothing_is_taught() -> None:
    async with LoopbackServer(answer='{"value":"good"}') as server:
        provider = OpenAICompatible(server.url, name="loopback")
        async with Tanuki(storage="memory:", providers=[provider], teacher_models="loopback:m"):
            exam = Exam()
            await exam.take(lesson)
            status = await tanuki.status(classify)

    told = [(each.holds, each.actual, each.expected) for each in exam.verdicts]
    assert told == [
        (True, "good", "good"),
        (False, "good", "bad"),
        (True, "good", "good"),
        (False, "good", False),
    ]
    first = lesson.__wrapped__.__code__.co_firstlineno  # type: ignore[attr-defined]
    assert [each.line - first for each in exam.verdicts] == [4, 4, 5, 6]
    assert {each.file for each in exam.verdicts} == {__file__}
    assert status.datasets["SYMBOLIC_ALIGNMENTS"] == 0


def test_align_functions_are_told_from_others() -> None:
    assert is_align(lesson)
    assert not is_align(with_a_parameter)
    assert not is_align(classify)
