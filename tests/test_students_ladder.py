"""A list of students is a ladder: what the cheapest abstains from goes to the next, if that proves itself there."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from hashlib import blake2b
from typing import Any, Literal

import pytest
from _learning import Models, fill
from _spine import tanuki_for

import tanuki_async as tanuki
from tanuki_async import Image, Model, StorageError
from tanuki_async.abc import ABSTAIN, Abstention, Student
from tanuki_async.providers.openai import OpenAICompatible
from tanuki_async.storage.memory import MemoryStorage
from tanuki_async.students.in_context import Recipe, choose
from tanuki_async.students.ladder import Contents, Ladder, Step, pack, unpack
from tanuki_async.testing import LoopbackServer

CHEAP = "loopback:cheap"
Mood = Literal["good", "bad", "odd"]
SYLLABLES = ["ba", "ke", "lo", "mi", "nu", "ra", "se", "ti", "vo", "zu"]


def word(place: int) -> str:
    return "".join(random.Random(place).choices(SYLLABLES, k=3))


def sentence(place: int) -> str:
    """Two thirds have a word that tells; the others are told apart by nothing that a classifier could learn."""
    told = ["lovely", "awful", "curious"][place % 3]
    return f"a {told} {word(place)} with {word(place + 5000)} {word(place + 9000)}"


def truth(text: str) -> str:
    if "lovely" in text:
        return "good"
    if "awful" in text:
        return "bad"
    return ["good", "bad", "odd"][sum(map(hash_of, text.split())) % 3]


def hash_of(word: str) -> int:
    return int.from_bytes(blake2b(word.encode(), digest_size=4).digest())


@tanuki.patch(student_model=["local", CHEAP], distill_after=200, timeout=5, audit_rate=0.0)
async def mood(text: str) -> Mood:
    """Tell the mood of a sentence."""
    ...


@pytest.fixture
def models() -> Models:
    return Models(truth)


@pytest.fixture
async def server(models: Models) -> AsyncIterator[LoopbackServer]:
    async with LoopbackServer(models) as running:
        yield running


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


async def test_what_the_local_student_abstains_from_goes_to_the_cheap_model(
    server: LoopbackServer, storage: MemoryStorage, models: Models
) -> None:
    pytest.importorskip("sklearn")
    await fill(storage, mood, [sentence(place) for place in range(900)], truth)

    async with tanuki_for(server, storage):
        learnt = await tanuki.distill(mood)
        assert (learnt.student, learnt.student_model) == ("ladder", CHEAP)
        models.asked.clear()
        found = [(text, await mood(text)) for text in map(sentence, range(1000, 1090))]

    assert learnt.bound is not None
    assert learnt.bound >= 0.9
    assert learnt.coverage is not None
    assert learnt.coverage > 0.95
    assert sum(answer == truth(text) for text, answer in found) >= 81
    assert 15 <= models.asked["cheap"] <= 60
    assert "small" not in models.asked

    async with tanuki_for(server, storage):  # and read back from storage
        models.asked.clear()
        for text in map(sentence, range(1001, 1061, 3)):
            await mood(text)
    assert models.asked["cheap"] >= 10
    assert "small" not in models.asked


async def test_the_next_step_is_examined_only_on_what_is_left_for_it(
    server: LoopbackServer, storage: MemoryStorage, models: Models
) -> None:
    pytest.importorskip("sklearn")
    await fill(storage, mood, [sentence(place) for place in range(900)], truth)
    models.others["cheap"] = lambda request: {"value": "odd"}  # wrong where it matters

    async with tanuki_for(server, storage):
        learnt = await tanuki.distill(mood)
        models.asked.clear()
        for text in map(sentence, range(1001, 1061, 3)):
            await mood(text)

    assert (learnt.student, learnt.student_model) == ("local", None)
    assert models.asked["small"] >= 10
    assert "cheap" not in models.asked


async def test_the_first_that_proves_itself_serves_alone_where_nothing_is_left(
    server: LoopbackServer, storage: MemoryStorage, models: Models
) -> None:
    @tanuki.patch(student_model=["loopback:poor", CHEAP, "loopback:dear"])
    async def spell(text: str) -> str:
        """Write a text backwards."""
        ...

    models.truth = lambda text: text[::-1]
    models.others["poor"] = lambda request: {"value": "no idea"}
    await fill(storage, spell, [f"word {place}" for place in range(240)], models.truth)

    async with tanuki_for(server, storage):
        learnt = await tanuki.distill(spell)

    assert (learnt.student, learnt.student_model) == ("in_context", CHEAP)
    assert "dear" not in models.asked


async def test_variable_arguments_reach_a_student_as_they_reach_a_teacher(
    server: LoopbackServer, storage: MemoryStorage, models: Models
) -> None:
    @tanuki.patch(student_model=CHEAP, audit_rate=0.0)
    async def join(first: str, *rest: str, sep: str = "-", **named: str) -> str:
        """Join words."""
        ...

    seen: dict[str, list[str]] = {"small": [], "cheap": []}

    def answer(request: Any) -> Any:
        seen[request.model].append(request.messages[-1]["content"])
        return {"value": request.arguments["first"]}

    models.others = {"small": answer, "cheap": answer}
    await fill(storage, join, [f"word {place}" for place in range(240)], lambda text: text)
    async with tanuki_for(server, storage):
        await join("a", "b", "c", sep="+", last="z")
        await tanuki.distill(join)
        await join("a", "b", "c", sep="+", last="z")

    assert seen["small"] == ['{"first":"a","rest":["b","c"],"sep":"+","named":{"last":"z"}}']
    assert seen["cheap"][-1] == seen["small"][0]


async def test_a_model_that_could_not_answer_is_no_student(server: LoopbackServer, storage: MemoryStorage) -> None:
    @tanuki.patch(student_model="loopback:blind")
    async def shade(photo: Image) -> str:
        """Tell how light it is."""
        ...

    @tanuki.patch(student_model="openai:text-embedding-3-small")
    async def tone(text: str) -> str:
        """Tell its tone."""
        ...

    blind = Model(provider="loopback", name="blind")
    provider = OpenAICompatible(server.url, name="loopback", models={"blind": blind})
    async with tanuki_for(server, storage, providers=[provider]):
        assert "takes no images" in (await tanuki.status(shade)).reason
        assert "it cannot answer" in (await tanuki.status(tone)).reason


class Says(Student):
    def __init__(self, answer: Any) -> None:
        self.says = answer

    async def answer(self, inputs: Any) -> Any:
        return self.says


async def test_a_ladder_asks_until_somebody_is_sure() -> None:
    assert await Ladder([Says(ABSTAIN), Says("second"), Says("third")]).answer({}) == "second"
    assert isinstance(await Ladder([Says(ABSTAIN)]).answer({}), Abstention)


def test_a_ladder_survives_being_written_and_read() -> None:
    steps = (
        Step(kind="local", parameters=b"a\nb", agreement=0.98, bound=0.9, coverage=0.5, held_out=100),
        Step(kind="in_context", parameters=b"", agreement=1.0, bound=0.9, coverage=1.0, held_out=50, model="o:m"),
    )
    packed = pack(Contents(steps, ("ab", "cd")))

    assert unpack(packed) == Contents(steps, ("ab", "cd"))
    for wrong in (b"", b"{}", packed[:-1], packed.replace(b'"v": 1', b'"v": 9'), b"[]\n"):
        with pytest.raises(StorageError):
            unpack(wrong)


@pytest.mark.parametrize("wrong", [b"", b"{}", b"[]", b'{"v":2}', b'{"v":1,"examples":[1]}'])
def test_what_is_no_recipe_is_refused(wrong: bytes) -> None:
    with pytest.raises(StorageError):
        Recipe.from_json(wrong)


def test_examples_are_of_every_answer_different_and_new() -> None:
    pairs = [({"text": f"alpha beta {place // 2}"}, "often") for place in range(60)]
    pairs += [({"text": f"gamma {place}"}, "rarely") for place in range(3)]

    chosen = choose(pairs, 4)

    assert [pairs[place][1] for place in chosen].count("rarely") == 2
    assert len({pairs[place][0]["text"] for place in chosen}) == 4
    assert chosen == choose(pairs, 16)[:4]
    assert len(set(choose(pairs, 16))) == 16
    assert choose(pairs, 0) == []
    assert choose([], 4) == []
