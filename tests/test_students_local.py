"""The local student learns, abstains, is saved and read back, and says why it cannot learn."""

from __future__ import annotations

import pickle
import random
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.svm import LinearSVC

from tanuki_async._errors import SettingsError, StorageError
from tanuki_async._records import JsonValue
from tanuki_async.abc import ABSTAIN
from tanuki_async.students import _fitting, _format
from tanuki_async.students._features import letters_of, likeness, phrases_of, plain, spelled, words_of
from tanuki_async.students.local import LocalStudent, Trained, Unlearnable, train

TOPICS = {
    "food": "bread cheese soup apple dinner cook salt pepper kitchen tasty",
    "sport": "goal match team player coach league score referee stadium win",
    "money": "bank loan shares profit market price invoice tax budget interest",
}
FILLER = ["the", "a", "of", "and", "we", "they", "today", "really", "about", "with", "for"]


def sentences(count: int, seed: int = 0) -> list[tuple[dict[str, JsonValue], JsonValue]]:
    """Make texts whose topic is told by a few of their words."""
    made: list[tuple[dict[str, JsonValue], JsonValue]] = []
    rng = random.Random(seed)
    for _ in range(count):
        topic = rng.choice(sorted(TOPICS))
        words = rng.choices(TOPICS[topic].split(), k=3) + rng.choices(FILLER, k=4)
        rng.shuffle(words)
        made.append(({"text": " ".join(words) + f" {rng.choice('abcdefgh')}{rng.choice('ijklmnop')}"}, topic))
    return made


@pytest.fixture(scope="module")
def trained() -> Trained:
    return train(sentences(200), seed=1)


@pytest.fixture(scope="module")
def parameters(trained: Trained) -> bytes:
    return trained.parameters(0.2)


async def test_it_answers_inputs_it_has_not_seen(parameters: bytes) -> None:
    student = LocalStudent.load(parameters)

    answers = [(await student.answer(inputs), output) for inputs, output in sentences(200, seed=9)]

    assert sum(answer == output for answer, output in answers) >= 195


@pytest.mark.parametrize("text", ["", "   ", "Überraschung! Völlig fremde Wörter, nirgends gelernt.", "?!"])
def test_it_abstains_where_it_knows_nothing(parameters: bytes, text: str) -> None:
    assert LocalStudent.load(parameters).answer_nowait({"text": text}) is ABSTAIN


def test_it_answers_only_where_it_leads_by_the_threshold(trained: Trained) -> None:
    close, clear = {"text": "the bread we about goal"}, {"text": "the bread we about cheese soup"}
    lead = LocalStudent.load(trained.parameters(0.0)).judge(close)[1]

    student = LocalStudent.load(trained.parameters(lead + 0.01))

    assert student.answer_nowait(close) is ABSTAIN
    assert student.answer_nowait(clear) == "food"


def test_a_stricter_threshold_answers_less(trained: Trained) -> None:
    asked = [inputs for inputs, _ in sentences(100, seed=3)]

    def answered(threshold: float) -> int:
        student = LocalStudent.load(trained.parameters(threshold))
        return sum(student.answer_nowait(inputs) is not ABSTAIN for inputs in asked)

    assert answered(0.0) > answered(1.0) > answered(9.0) == 0


def test_its_labels_are_those_of_scikit_learn() -> None:
    examples = sentences(150, seed=4)
    texts = [str(inputs["text"]) for inputs, _ in examples]
    labels = np.array([output for _, output in examples])
    blocks: list[Callable[[str], list[str]]] = [
        lambda text: plain(words_of(text)),
        lambda text: phrases_of(words_of(text), plain(words_of(text)), ""),
        lambda text: sorted({each for form in spelled(plain(words_of(text))) for each in letters_of(form, "")}),
    ]
    vectors = [TfidfVectorizer(analyzer=block, sublinear_tf=True) for block in blocks]
    matrix = sp.hstack([vector.fit_transform(texts) for vector in vectors]).tocsr()
    asked = [inputs for inputs, _ in sentences(300, seed=5)]
    new = sp.hstack([vector.transform([str(inputs["text"]) for inputs in asked]) for vector in vectors]).tocsr()
    scores = []
    for label in np.unique(labels):
        inside = np.asarray(matrix[labels == label].sum(axis=0)).ravel() + _fitting.SMOOTH
        outside = np.asarray(matrix[labels != label].sum(axis=0)).ravel() + _fitting.SMOOTH
        told = np.abs(np.log(inside / inside.sum() * outside.sum() / outside))
        stretch = sp.diags(_fitting.STRETCH * told / told.mean() + 1 - _fitting.STRETCH)
        machine = LinearSVC(C=_fitting.PENALTY, random_state=7, max_iter=5000).fit(matrix @ stretch, labels == label)
        scores.append(machine.decision_function(new @ stretch))
    wanted = np.unique(labels)[np.argmax(scores, axis=0)].tolist()

    student = LocalStudent.load(train(examples, seed=7).parameters(0.0))

    assert [student.outputs[student.judge(inputs)[0]] for inputs in asked] == wanted


def test_the_same_seed_gives_the_same_student() -> None:
    assert train(sentences(60), seed=3).parameters(0.1) == train(sentences(60), seed=3).parameters(0.1)


def test_answering_needs_no_scikit_learn(parameters: bytes, subprocess_env: dict[str, str]) -> None:
    code = (
        "import sys\n"
        "from tanuki_async.students.local import LocalStudent\n"
        "assert 'numpy' not in sys.modules\n"
        "student = LocalStudent.load(sys.stdin.buffer.read())\n"
        "assert student.answer_nowait({'text': 'the bread we about cheese'}) == 'food'\n"
        "assert not {'sklearn', 'scipy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], input=parameters, check=True, env=subprocess_env)


RULES: dict[str, tuple[Callable[[random.Random], dict[str, JsonValue]], Callable[[Any], JsonValue]]] = {
    "a number": (lambda rng: {"size": rng.randint(0, 1000)}, lambda got: got["size"] >= 256),
    "a flag": (
        lambda rng: {"text": "same " + "ab"[rng.random() < 0.5], "on": rng.random() < 0.5},
        lambda got: got["on"],
    ),
    "a nested value": (
        lambda rng: {"order": {"lines": [rng.choice(["tea", "nail"]) for _ in range(2)], "paid": rng.random()}},
        lambda got: "nail" in got["order"]["lines"],
    ),
    "which field": (
        lambda rng: (lambda names: {"winner": names[0], "loser": names[1]})(rng.sample(["ann", "bob", "cid"], 2)),
        lambda got: got["winner"],
    ),
    "None": (lambda rng: {"who": rng.choice([None, "me"]), "n": rng.random()}, lambda got: None if got["who"] else 3),
}


@pytest.mark.parametrize("rule", RULES)
def test_inputs_of_any_kind_can_teach(rule: str) -> None:
    make, answer = RULES[rule]
    rng = random.Random(6)
    examples = [(inputs, answer(inputs)) for inputs in [make(rng) for _ in range(150)]]
    examples = [
        *examples,
        *[({**inputs, "note": f"n{place}"}, output) for place, (inputs, output) in enumerate(examples)],
    ]

    student = LocalStudent.load(train(examples, seed=1).parameters(0.0))

    asked = [make(rng) for _ in range(100)]
    right = sum(student.outputs[student.judge(inputs)[0]] == answer(inputs) for inputs in asked)
    assert right >= 95


def test_the_order_of_a_set_says_nothing() -> None:
    examples: list[tuple[dict[str, JsonValue], JsonValue]] = [
        (inputs, ["a", "b"] if place % 2 else ["b", "a"]) if topic == "food" else (inputs, ["c"])
        for place, (inputs, topic) in enumerate(sentences(120))
    ]

    assert len(LocalStudent.load(train(examples, seed=1).parameters(0.0)).outputs) == 2


def test_like_inputs_are_judged_once_and_together() -> None:
    examples = [
        ({"text": f"{inputs['text']} call 0{number}5!"}, output)
        for inputs, output in sentences(60)
        for number in (1, 2)
    ]

    assert likeness({"text": "Call 015 now!"}) == likeness({"text": "call  937, NOW"})
    assert len(train(examples, seed=1).verdicts) == len({likeness(inputs) for inputs, _ in examples}) <= 60


def test_a_copy_of_an_input_does_not_help_to_prove_noise() -> None:
    rng = random.Random(2)
    noise: list[tuple[dict[str, JsonValue], JsonValue]] = [
        ({"text": f"{' '.join(rng.choices(FILLER, k=6))} {rng.random()}"}, rng.choice(["x", "y"])) for _ in range(100)
    ]

    verdicts = train([*noise, *[({"text": f"{inputs['text']}!"}, output) for inputs, output in noise]], seed=1).verdicts

    assert sum(verdict.agreed for verdict in verdicts) / len(verdicts) < 0.7


def test_match_decides_what_agrees() -> None:
    rng = random.Random(8)
    doubtful = [
        (inputs, rng.choice(["warm", "hot"]) if topic == "food" else "cold") for inputs, topic in sentences(150)
    ]

    def alike(left: JsonValue, right: JsonValue) -> bool:
        return {left, right} <= {"warm", "hot"}  # type: ignore[comparison-overlap]

    assert sum(not verdict.agreed for verdict in train(doubtful, seed=1).verdicts) > 10
    assert sum(not verdict.agreed for verdict in train(doubtful, seed=1, match=alike).verdicts) < 5


def test_aligned_inputs_are_never_answered_wrongly() -> None:
    examples = [*sentences(150), *[({"text": f"bread{' ' * gap}cheese soup"}, "food") for gap in range(2, 60)]]
    examples[0] = ({"text": "bread cheese soup"}, "money")

    trained = train(examples, seed=1, aligned=frozenset({0}))
    careless = LocalStudent.load(train(examples, seed=1).parameters(0.0))
    student = LocalStudent.load(trained.parameters(0.0))

    assert careless.answer_nowait({"text": "bread cheese soup"}) == "food"
    assert student.answer_nowait({"text": "bread cheese soup"}) is ABSTAIN
    assert student.answer_nowait({"text": "bread  cheese soup"}) == "food"


@pytest.mark.parametrize(
    ("examples", "why"),
    [
        ([(inputs, "one") for inputs, _ in sentences(40)], "all 40 recorded answers are the same"),
        ([({"text": "same words"}, str(place % 2)) for place in range(40)], "only 1 inputs are really different"),
    ],
)
def test_what_cannot_be_learnt_says_why(examples: list[tuple[Mapping[str, JsonValue], JsonValue]], why: str) -> None:
    with pytest.raises(Unlearnable, match=why):
        train(examples, seed=1)


def test_a_stopped_training_ends_between_folds() -> None:
    asked = iter([False, True])

    with pytest.raises(Unlearnable, match="stopped"):
        train(sentences(60), seed=1, stopped=lambda: next(asked))


def test_a_label_seen_once_is_never_answered() -> None:
    examples = [*sentences(100), ({"text": "quite another thing"}, "rare")]

    trained = train(examples, seed=1)

    assert "rare" not in LocalStudent.load(trained.parameters(0.0)).outputs
    assert len(trained.verdicts) == len({likeness(inputs) for inputs, _ in examples})


def test_without_scikit_learn_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.svm", None)
    monkeypatch.delitem(sys.modules, "tanuki_async.students._fitting")

    with pytest.raises(SettingsError, match=r"pip install 'tanuki_async\[local\]'"):
        train(sentences(40), seed=1)


def test_torn_parameters_are_refused_wherever_they_are_torn(parameters: bytes) -> None:
    for end in [0, 5, 15, 20, 33, 40, len(parameters) // 2, len(parameters) - 1]:
        with pytest.raises(StorageError):
            LocalStudent.load(parameters[:end])
    with pytest.raises(StorageError):
        LocalStudent.load(parameters + b"x")


def test_any_changed_byte_is_noticed(parameters: bytes) -> None:
    rng = random.Random(0)
    for _ in range(100):
        changed = bytearray(parameters)
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        with pytest.raises(StorageError):
            LocalStudent.load(bytes(changed))


@pytest.mark.parametrize("foreign", [b"", b"{}", pickle.dumps({"a": 1}), b"\x00" * 100])
def test_foreign_bytes_are_refused(foreign: bytes) -> None:
    with pytest.raises(StorageError, match="begin with something else"):
        LocalStudent.load(foreign)


def test_a_newer_format_is_named(parameters: bytes) -> None:
    newer = bytearray(parameters)
    newer[len(_format.MAGIC)] = 2

    with pytest.raises(StorageError, match="version 2, this release reads 1"):
        LocalStudent.load(bytes(newer))


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "other"},
        {"outputs": ["only one"]},
        {"outputs": ["a", "b", "c", "d"]},
        {"threshold": "high"},
        {"threshold": float("nan")},
        {"withheld": ["no digest"]},
        {"fields": None},
    ],
)
def test_a_whole_file_that_says_nonsense_is_refused(parameters: bytes, change: dict[str, Any]) -> None:
    contents = _format.unpack(parameters)
    nonsense = _format.pack(replace(contents, header={**contents.header, **change}))

    with pytest.raises(StorageError):
        LocalStudent.load(nonsense)


def test_parameters_stay_small_whatever_the_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_format, "LARGEST", 30_000)
    rng = random.Random(1)
    examples = [
        ({"text": f"{inputs['text']} {rng.random()} {rng.random()}"}, output) for inputs, output in sentences(300)
    ]

    assert len(train(examples, seed=1).parameters(0.0)) <= 30_000


STRANGE: list[JsonValue] = [
    float("nan"),
    float("-inf"),
    10**400,
    -(10**5000),
    "\ud800 lone",
    "x" * 100_000,
    ["word"] * 10_000,
    {"": {"": [[], {}, None, False]}},
    "\x00\x1f\x1e\n",
]


@pytest.mark.parametrize("strange", STRANGE, ids=lambda value: repr(type(value)))
def test_strange_inputs_are_learnt_from_and_answered_without_an_error(strange: JsonValue) -> None:
    examples = [*sentences(60), *[({"text": strange, "n": number}, "food") for number in range(3)]]
    sys.set_int_max_str_digits(0)  # as a user might who has such numbers
    try:
        student = LocalStudent.load(train(examples, seed=1, aligned=frozenset({60})).parameters(0.0))
        answer = student.answer_nowait({"text": strange, "new": strange})
    finally:
        sys.set_int_max_str_digits(4300)

    assert answer is ABSTAIN or answer in TOPICS


def test_a_value_nested_beyond_measure_is_cut_off(parameters: bytes) -> None:
    deep: JsonValue = "bread"
    for _ in range(500):
        deep = [deep]

    assert LocalStudent.load(parameters).answer_nowait({"text": deep}) is ABSTAIN
