"""A state survives storage; what is no state is refused; tasks know their places."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from tanuki_async._distill.evaluate import Audits
from tanuki_async._distill.state import State, Task
from tanuki_async._errors import StorageError

SERVING = State(
    phase="serving",
    reason="agreed",
    trainings=2,
    looks=3,
    student="ab/student-0-2",
    kind="local",
    agreement=0.97,
    bound=0.92,
    confidence=0.95,
    held_out=400,
    coverage=0.9,
    trained_on=400,
    audits=Audits(asked=5, agreed=4, faults=1, evidence=(0.5, 0.0, 2.25)),
    template_version=3,
    updated_at="2026-01-01T00:00:00.000Z",
)


def task(**changes: Any) -> Task:
    options: dict[str, Any] = {"hash": "ab", "name": "f", "closed": True, "inputs_of": lambda args, kwargs: {}}
    return Task(**{**options, **changes})


@pytest.mark.parametrize("state", [State(), SERVING])
def test_a_state_survives_being_written_and_read(state: State) -> None:
    assert State.from_json(state.to_json()) == state


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b'{"v":1}', b"\xff", SERVING.to_json()[:-9]])
def test_what_is_no_state_is_refused(text: bytes) -> None:
    with pytest.raises(StorageError, match="not a distillation state"):
        State.from_json(text)


@pytest.mark.parametrize(
    "change", [{"phase": "dreaming"}, {"surprise": 1}, {"audits": {"asked": 1, "evidence": ["x"]}}, {"audits": None}]
)
def test_a_state_that_says_nonsense_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(StorageError, match="not a distillation state"):
        State.from_json(json.dumps({**json.loads(SERVING.to_json()), **change}).encode())


def test_a_newer_state_is_named() -> None:
    with pytest.raises(StorageError, match="version 3, this release reads up to 2"):
        State.from_json(json.dumps({**json.loads(SERVING.to_json()), "v": 3}).encode())


def test_a_state_of_the_first_version_is_read() -> None:
    document = {**json.loads(SERVING.to_json()), "v": 1}
    for added in ("model", "job", "rung", "polls"):
        del document[added]

    assert State.from_json(json.dumps(document).encode()) == SERVING


def test_a_student_taken_away_leaves_nothing_that_it_proved() -> None:
    state = SERVING.without_student("reverted", "drift")

    assert (state.phase, state.student, state.bound, state.trainings) == ("reverted", None, None, 2)


@pytest.mark.parametrize(("student", "phase"), [("ab/student-0-2", "serving"), (None, "collecting")])
def test_after_a_training_the_phase_tells_whether_somebody_serves(student: str | None, phase: str) -> None:
    training = replace(SERVING, phase="training", trainer="me:1", student=student)

    state = training.at_rest("done")

    assert (state.phase, state.trainer) == (phase, None)


def test_tasks_told_the_same_share_a_place_and_others_do_not() -> None:
    assert task().key == task(match=lambda left, right: True).key
    assert len({task().key, task(hash="cd").key, task(environment_id=1).key, task(min_agreement=0.95).key}) == 4


def test_environments_are_kept_apart() -> None:
    assert task().state_key == "ab/state-0"
    assert task(environment_id=7).student_key(2) == "ab/student-7-2"
