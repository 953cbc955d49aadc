"""The whole story: aligned, called, recorded, learnt, served for nothing, audited, and taken back when it drifts."""

import asyncio
import os
from pathlib import Path
from random import Random
from typing import Any, Literal

import pytest
from _spine import settings_for

import tanuki_async as tanuki
from tanuki_async import Tanuki
from tanuki_async._cli._sms import load
from tanuki_async._distill.scheduler import Distiller
from tanuki_async._distill.state import State, Task
from tanuki_async._distill.watched import Watched
from tanuki_async.storage.memory import MemoryStorage
from tanuki_async.testing import LoopbackServer
from tanuki_async.testing.answers import ChatRequest

pytest.importorskip("sklearn")

Label = Literal["spam", "ham"]
MESSAGES = load(seed=5)
LABELS = dict(MESSAGES)


@tanuki.patch(distill_after=500, audit_rate=0.3, min_agreement=0.9)
async def sort(message: str) -> Label:
    """Tell whether an SMS is spam or ham, that is, wanted."""
    ...


@tanuki.align
async def align_sort() -> None:
    for text, label in MESSAGES[:4]:
        assert await sort(text) == label


class Teacher:
    """Knows every label, until it changes its mind."""

    def __init__(self) -> None:
        self.asked = 0
        self.contrary = False

    def __call__(self, request: ChatRequest) -> dict[str, Any]:
        self.asked += 1
        label = LABELS[request.arguments["message"]]
        return {"value": {"spam": "ham", "ham": "spam"}[label] if self.contrary else label}


async def answers(messages: list[tuple[str, str]]) -> list[str]:
    return [label async for label in tanuki.amap(sort, [text for text, _ in messages], concurrency=32)]


async def with_student(kind: str | None) -> tanuki.Status:
    async with asyncio.timeout(8):
        while (found := await tanuki.status(sort)).student != kind:  # noqa: ASYNC110  # it learns in the background
            await asyncio.sleep(0.05)
        return found


async def test_a_function_gets_cheaper_with_use_and_is_taken_back_when_it_drifts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    teacher = Teacher()
    async with LoopbackServer(teacher, strict=True, keep=5) as server:
        settings = settings_for(server, tmp_path / "data")

        async with Tanuki(**settings) as opened:
            opened._library._distiller._random.seed(5)  # which examples are held out
            await align_sort()
            assert teacher.asked == 0
            first = await tanuki.status(sort)
            assert (first.phase, first.student, first.datasets["SYMBOLIC_ALIGNMENTS"]) == ("collecting", None, 4)

            assert await answers(MESSAGES[4:604]) == [label for _, label in MESSAGES[4:604]]
            taught = await with_student("local")
            assert taught.phase == "serving"
            assert taught.bound is not None
            assert taught.bound >= 0.9
            assert taught.agreement is not None
            assert taught.agreement >= taught.bound
            assert 450 <= taught.datasets["PATCHES"] <= 600
            asked_while_learning = teacher.asked

            found = await answers(MESSAGES[604:1004])
            right = sum(given == label for given, (_, label) in zip(found, MESSAGES[604:1004], strict=True))
            assert right >= 370
            served = await tanuki.status(sort)
            assert served.answered_by_student >= 100
            assert served.answered_by_teacher + served.answered_by_student == 1000
            assert served.audits > 0
            assert served.phase == "serving"
            assert teacher.asked - asked_while_learning < 400

        assert await asyncio.to_thread(files, tmp_path / "data") >= {"PATCHES.jsonl", "SYMBOLIC_ALIGNMENTS.jsonl"}
        asked_before = teacher.asked

        async with Tanuki(**settings):
            assert await sort(MESSAGES[604][0]) in ("spam", "ham")
            again = await tanuki.status(sort)
            assert (again.student, again.trainings) == ("local", taught.trainings)
            assert again.answered_by_teacher + again.answered_by_student == 1001
            assert again.audits >= served.audits
            assert teacher.asked <= asked_before + 1

            teacher.contrary = True
            await answers(MESSAGES[1004:1204])
            await with_student(None)
            assert "the student is withdrawn" in caplog.text
            asked_before = teacher.asked
            await answers(MESSAGES[1204:1224])
            assert teacher.asked == asked_before + 20


def files(directory: Path) -> set[str]:
    return {name for _, _, names in os.walk(directory) for name in names}


async def test_a_withdrawn_student_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    storage = MemoryStorage()
    distiller = Distiller(storage, owner="test")
    task = Task(hash="0" * 32, name="sort", closed=True, inputs_of=lambda args, kwargs: kwargs)
    watched = Watched(task, Random(0), distiller._settle)
    await storage.put(task.state_key, State(phase="reverted", reason="drifted").to_json(), version=None)
    watched.serving_key = "student"
    try:
        for _ in range(5):
            watched.pending.append((False, False))
            await distiller._settle(watched)
    finally:
        await distiller.aclose()

    assert caplog.text.count("is withdrawn") == 1
