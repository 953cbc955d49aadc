"""Pairs that were aligned teach an adapter, which moves vectors once it has proved itself on other texts."""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import sys
from collections.abc import AsyncIterator
from random import Random
from typing import Any

import pytest
from _spine import settings_for

import tanuki_async as tanuki
from tanuki_async import Embedding, StorageError, Tanuki
from tanuki_async._cli.reading import find, status_of
from tanuki_async._distill.evaluate import prove_gain, t_quantile
from tanuki_async.storage.memory import MemoryStorage
from tanuki_async.students import Gain
from tanuki_async.students.adapter import Adapter, Pair, train
from tanuki_async.testing import EmbeddingRequest, FakeClock, Fault, LoopbackServer

numpy = pytest.importorskip("numpy")

KINDS = ("river", "stone")
TEXTS = [f"{kind} {number}" for number in range(30) for kind in KINDS]
NEW = [f"{kind} {number}" for number in range(100, 130) for kind in KINDS]


@tanuki.patch
async def place(text: str) -> Embedding[list[float]]:
    """Embed a text by what kind of thing it names."""
    ...


class Model:
    """Embeds by what texts look like; their kind, which matters to us, is one dimension of twelve, and a weak one."""

    def __init__(self) -> None:
        self.embedded: list[str] = []

    def __call__(self, request: EmbeddingRequest) -> list[list[float]]:
        self.embedded += request.texts
        return [own_vector(text) for text in request.texts]


def own_vector(text: str) -> list[float]:
    drawn = Random(text)
    parts = [drawn.gauss(0, 1) for _ in range(11)] + [0.7 if text.startswith(KINDS[0]) else -0.7]
    length = math.hypot(*parts)
    return [part / length for part in parts]


def some_pairs(texts: list[str], count: int, seed: int = 1) -> list[tuple[str, str]]:
    return Random(seed).sample(list(itertools.combinations(texts, 2)), count)


def alike(pair: tuple[str, str]) -> bool:
    return pair[0].split(" ")[0] == pair[1].split(" ")[0]


async def teach(pairs: list[tuple[str, str]], function: Any = place, *, lie: bool = False) -> None:
    drawn = Random(3)

    @tanuki.align
    async def lesson() -> None:
        for a, b in pairs:
            if drawn.random() < 0.5 if lie else alike((a, b)):
                assert await function(a) == await function(b)
            else:
                assert await function(a) != await function(b)

    await lesson()


def ordered(vectors: dict[str, list[float]]) -> float:
    """How often two texts of one kind are closer than two of different kinds."""
    near = {True: list[float](), False: list[float]()}
    for pair in itertools.combinations(vectors, 2):
        near[alike(pair)].append(sum(a * b for a, b in zip(vectors[pair[0]], vectors[pair[1]], strict=True)))
    pairs = list(itertools.product(near[True][:300], near[False][:300]))
    return sum(same > other for same, other in pairs) / len(pairs)


async def vectors_of(texts: list[str], function: Any = place) -> dict[str, list[float]]:
    return dict(zip(texts, await asyncio.gather(*map(function, texts)), strict=True))


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
async def server(model: Model) -> AsyncIterator[LoopbackServer]:
    async with LoopbackServer(embedding=model) as running:
        yield running


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
async def opened(server: LoopbackServer, storage: MemoryStorage) -> AsyncIterator[Tanuki]:
    async with Tanuki(**settings_for(server, storage)) as running:
        yield running


async def test_pairs_bring_together_what_is_alike_in_texts_never_seen(opened: Tanuki, model: Model) -> None:
    await teach(some_pairs(TEXTS, 400))
    assert model.embedded == []  # aligning calls no model
    before = await vectors_of(NEW)
    found = await tanuki.distill(place)
    after = await vectors_of(NEW)

    assert (found.phase, found.student) == ("serving", "adapter:0")
    assert found.datasets["POSITIVE_EMBEDDABLE_ALIGNMENTS"] + found.datasets["NEGATIVE_EMBEDDABLE_ALIGNMENTS"] == 400
    assert found.agreement is not None
    assert found.bound is not None
    assert found.baseline is not None
    assert found.agreement > found.bound > found.baseline
    assert "an alike one was closer than another in" in found.reason
    assert ordered(before) < 0.6
    assert ordered(after) > 0.8
    assert all(len(each) == 12 and math.hypot(*each) == pytest.approx(1, abs=1e-5) for each in after.values())


async def test_learning_begins_by_itself_when_there_are_enough_pairs(
    opened: Tanuki, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tanuki_async.distill")
    await place("river 0")
    await teach(some_pairs(TEXTS, 400))
    async with asyncio.timeout(20):
        while await place("river 777") == pytest.approx(own_vector("river 777"), abs=1e-6):  # noqa: ASYNC110  # in the background
            await asyncio.sleep(0.02)

    assert (await tanuki.status(place)).student == "adapter:0"
    assert "place: the student" in caplog.text


async def test_another_process_finds_the_adapter_at_its_first_call(
    opened: Tanuki, server: LoopbackServer, storage: MemoryStorage, model: Model
) -> None:
    await teach(some_pairs(TEXTS, 400))
    await tanuki.distill(place)
    moved = await place("river 777")
    model.embedded.clear()
    async with Tanuki(**settings_for(server, storage)):
        assert await place("river 777") == pytest.approx(moved, abs=1e-6)
        assert model.embedded == ["river 777"]


async def test_the_command_line_tells_the_same(opened: Tanuki, storage: MemoryStorage) -> None:
    await teach(some_pairs(TEXTS, 400))
    told = await tanuki.distill(place)
    found = await status_of(storage, await find(storage, "place"), 0)

    assert (found.student, found.reason, found.baseline) == ("adapter:0", told.reason, told.baseline)


@pytest.mark.parametrize(
    "option", [{"student_model": None}, {"ignore_finetuning": True}, {"ignore_data_storage": True}]
)
async def test_it_can_be_switched_off(opened: Tanuki, option: dict[str, Any]) -> None:
    await teach(some_pairs(TEXTS, 400))
    await tanuki.distill(place)
    moved = await place("river 777")
    unmoved = tanuki.patch(**option)(place.__wrapped__)  # type: ignore[attr-defined]

    assert await unmoved("river 777") == pytest.approx(own_vector("river 777"), abs=1e-6)
    assert moved != pytest.approx(own_vector("river 777"), abs=1e-3)


async def test_an_adapter_belongs_to_one_model(opened: Tanuki) -> None:
    await teach(some_pairs(TEXTS, 400))
    await tanuki.distill(place)
    elsewhere = tanuki.patch(teacher_models="loopback:another")(place.__wrapped__)  # type: ignore[attr-defined]

    assert await elsewhere("river 777") == pytest.approx(own_vector("river 777"), abs=1e-6)
    assert (await tanuki.status(elsewhere)).student is None
    assert (await tanuki.distill(elsewhere)).student == "adapter:0"


async def test_an_array_is_moved_as_well(opened: Tanuki) -> None:
    async def place(text: str) -> Any:
        """Embed a text by what kind of thing it names."""

    place.__annotations__["return"] = Embedding[numpy.ndarray]
    function = tanuki.patch(place)
    await teach(some_pairs(TEXTS, 400), function)
    await tanuki.distill(function)
    found = await function("river 777")

    assert (found.dtype, found.shape) == (numpy.float32, (12,))
    assert not numpy.allclose(found, own_vector("river 777"), atol=1e-3)


async def test_learning_again_asks_only_for_texts_that_are_new(opened: Tanuki, model: Model) -> None:
    pairs = some_pairs(TEXTS, 400)
    await teach(pairs)
    await tanuki.distill(place)
    assert sorted(model.embedded) == sorted({text for pair in pairs for text in pair})

    model.embedded.clear()
    await teach([("river 500", "stone 500"), ("river 500", "river 0")])
    found = await tanuki.distill(place)

    assert sorted(model.embedded) == ["river 500", "stone 500"]
    assert found.student == "adapter:1"


async def test_pairs_must_double_before_vectors_change_again(opened: Tanuki) -> None:
    pairs = some_pairs(TEXTS, 600)
    await place("river 0")
    await teach(pairs[:200])
    async with asyncio.timeout(20):
        while (found := await tanuki.status(place)).student is None:  # noqa: ASYNC110  # it learns in the background
            await asyncio.sleep(0.02)
    await teach(pairs[200:300])
    await tanuki.flush()
    await asyncio.sleep(0.05)
    assert (await tanuki.status(place)).trainings == found.trainings == 1

    await teach(pairs[300:450])
    async with asyncio.timeout(20):
        while (await tanuki.status(place)).student != "adapter:1":  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_what_cannot_be_told_apart_changes_nothing(opened: Tanuki) -> None:
    await teach(some_pairs(TEXTS, 400), lie=True)
    found = await tanuki.distill(place)

    assert (found.phase, found.student) == ("collecting", None)
    assert "not enough to prove that it is better" in found.reason
    assert await place("river 777") == pytest.approx(own_vector("river 777"), abs=1e-6)


async def test_pairs_of_one_kind_teach_nothing(opened: Tanuki) -> None:
    await teach([pair for pair in some_pairs(TEXTS, 400) if alike(pair)][:40])
    found = await tanuki.distill(place)

    assert "0 negative pairs are too few" in found.reason


async def test_the_status_says_how_many_pairs_are_missing(opened: Tanuki) -> None:
    await teach(some_pairs(TEXTS, 10))

    assert (await tanuki.status(place)).reason == "10 examples were recorded; learning starts at 65"
    assert "10 of 20 different inputs were recorded" in (await tanuki.distill(place)).reason


async def test_the_status_says_that_numpy_is_missing(opened: Tanuki, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numpy", None)
    await teach(some_pairs(TEXTS, 70))

    assert (await tanuki.distill(place)).reason == "numpy is not installed: pip install 'tanuki_async[local]'"
    assert await place("river 777") == pytest.approx(own_vector("river 777"), abs=1e-6)


async def test_of_two_contrary_words_about_a_pair_the_later_counts(
    opened: Tanuki, caplog: pytest.LogCaptureFixture
) -> None:
    pairs = some_pairs(TEXTS, 400)
    await teach([(b, a) for a, b in pairs], lie=True)
    await asyncio.sleep(0.005)  # records are timed in milliseconds
    await teach(pairs)
    found = await tanuki.distill(place)

    assert "pairs were aligned as alike and as not; the later word counts" in caplog.text
    assert found.student == "adapter:0"


async def test_a_text_that_the_model_does_not_take_is_left_out(storage: MemoryStorage) -> None:
    def answer(request: EmbeddingRequest) -> Any:
        return Fault.status(400) if "river 0" in request.texts else [own_vector(text) for text in request.texts]

    async with LoopbackServer(embedding=answer) as server, Tanuki(**settings_for(server, storage)):
        await teach([*some_pairs(TEXTS, 400), (" ", "stone 1"), ("", "stone 1")])
        found = await tanuki.distill(place)

        assert found.student == "adapter:0"


async def test_a_provider_that_fails_while_it_learns_leaves_calls_alone(storage: MemoryStorage) -> None:
    def answer(request: EmbeddingRequest) -> Any:
        if len(request.texts) > 1:
            return [[0.0]]  # too few
        return [own_vector(text) for text in request.texts]

    async with (
        LoopbackServer(embedding=answer) as server,
        Tanuki(clock=FakeClock(autojump=0.01), **settings_for(server, storage)),
    ):
        await teach(some_pairs(TEXTS, 60))
        found = await tanuki.distill(place)

        assert "the texts of pairs cannot be embedded now" in found.reason
        assert await place("river 1") == pytest.approx(own_vector("river 1"), abs=1e-6)


# The arithmetic


def sample(seed: int = 0) -> tuple[list[list[float]], list[Pair]]:
    places = {text: number for number, text in enumerate(TEXTS)}
    pairs = [Pair(places[a], places[b], alike((a, b))) for a, b in some_pairs(TEXTS, 400, seed)]
    return [own_vector(text) for text in TEXTS], pairs


def test_the_same_seed_gives_the_same_adapter() -> None:
    vectors, pairs = sample()
    first, second = train(vectors, pairs, seed=4), train(vectors, pairs, seed=4)

    assert not isinstance(first, str)
    assert not isinstance(second, str)
    assert (first.gain, first.parameters(0.0)) == (second.gain, second.parameters(0.0))


@pytest.mark.parametrize("change", [lambda b: b[:-1], lambda b: b"x" + b, lambda b: b[:-3] + b"abc", lambda b: b""])
def test_bytes_that_are_no_adapter_are_told_from_one(change: Any) -> None:
    trained = train(*sample(), seed=4)
    assert not isinstance(trained, str)
    whole = trained.parameters(0.0)
    assert Adapter.load(whole).dimensions == 12

    with pytest.raises(StorageError):
        Adapter.load(change(whole))


def test_the_deviation_is_the_jackknifes() -> None:
    from tanuki_async.students import _moving

    drawn = numpy.random.default_rng(2)
    unit, moved = (_moving.normalised(drawn.normal(size=(12, 5)).astype(numpy.float32)) for _ in range(2))
    pairs = [Pair(a, b, (a + b) % 3 == 0) for a, b in itertools.combinations(range(12), 2) if (a * b) % 5]

    def share(kept: list[Pair]) -> float:
        found = [
            _moving._ordered(moved, ends[0], ends[1]) - _moving._ordered(unit, ends[0], ends[1])
            for ends in [[_moving._ends([p for p in kept if p.alike is kind]) for kind in (True, False)]]
        ]
        return float(found[0].mean())

    table = _moving._Table(unit, moved, [p for p in pairs if p.alike], [p for p in pairs if not p.alike])
    gain = _moving._gain([table])
    texts = sorted({place for pair in pairs for place in (pair.left, pair.right)})
    left_out = [share([pair for pair in pairs if text not in (pair.left, pair.right)]) for text in texts]
    expected = math.sqrt((len(texts) - 1) / len(texts) * sum((each - numpy.mean(left_out)) ** 2 for each in left_out))

    assert gain.after - gain.before == pytest.approx(share(pairs), abs=1e-5)
    assert gain.deviation == pytest.approx(expected, rel=1e-4)
    assert (gain.texts, gain.pairs) == (len(texts), len(pairs))


def test_texts_that_are_connected_stay_together_where_they_can() -> None:
    from tanuki_async.students import _moving

    chains = [Pair(start, start + 1, True) for start in range(0, 40, 2)]
    places = _moving.folds(chains, Random(1))
    assert all(places[pair.left] == places[pair.right] for pair in chains)
    assert len(set(places.values())) == _moving.FOLDS

    everything = [Pair(a, b, True) for a, b in itertools.combinations(range(12), 2)]
    assert sorted(list(_moving.folds(everything, Random(1)).values()).count(fold) for fold in range(3)) == [4, 4, 4]


@pytest.mark.parametrize(("alpha", "freedom", "known"), [(0.025, 30, 2.0423), (0.05, 10, 1.8125), (0.001, 120, 3.1595)])
def test_quantiles_of_students_t_are_those_of_the_tables(alpha: float, freedom: int, known: float) -> None:
    assert t_quantile(alpha, freedom) == pytest.approx(known, abs=1e-4)


def test_a_gain_must_be_larger_than_what_chance_gives() -> None:
    gain = Gain(before=0.6, after=0.7, deviation=0.04, texts=61, pairs=300)
    proof = prove_gain(gain, alpha=0.025)
    assert not isinstance(proof, str)
    assert proof.bound == pytest.approx(0.6 + 0.1 - 2.0003 * 0.04, abs=1e-4)

    assert isinstance(prove_gain(gain, alpha=0.001), str)
    few = Gain(before=0.0, after=1.0, deviation=0.0, texts=12, pairs=20)
    assert "12 held-out texts are too few" in str(prove_gain(few, alpha=0.025))
