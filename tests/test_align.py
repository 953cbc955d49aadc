"""Every form of assert in the contract's table, taught and then seen by the teacher over real HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import date
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel

import tanuki_async as tanuki
from tanuki_async import AlignmentError, Embedding, StubError, Tanuki
from tanuki_async.providers.openai import OpenAICompatible
from tanuki_async.storage.memory import MemoryStorage
from tanuki_async.testing import LoopbackServer


class Mood(Enum):
    HAPPY = "happy"
    SAD = "sad"


class Person(BaseModel):
    name: str
    born: date


@dataclass
class Point:
    x: int
    y: int


@tanuki.patch
async def classify(text: str) -> Literal["good", "bad"] | None:
    """Classify the sentiment of a message, or None if it has none."""
    ...


@tanuki.patch
async def is_spam(text: str) -> bool:
    """Tell whether a message is spam."""
    ...


@tanuki.patch
async def count(text: str) -> int:
    """Count the words."""
    ...


@tanuki.patch
async def mood(text: str) -> Mood:
    """Name the mood."""
    ...


@tanuki.patch
async def person(text: str) -> Person:
    """Extract a person."""
    ...


@tanuki.patch
async def point(text: str) -> Point:
    """Extract a point."""
    ...


@tanuki.patch
async def words(text: str) -> list[str]:
    """Split into words."""
    ...


@tanuki.patch
async def vector(text: str) -> Embedding[list[float]]:
    """Embed a text."""
    ...


@pytest.fixture
async def server() -> AsyncIterator[LoopbackServer]:
    async with LoopbackServer(answer='{"value": null}') as running:
        yield running


@pytest.fixture
async def storage() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
async def opened(server: LoopbackServer, storage: MemoryStorage) -> AsyncIterator[Tanuki]:
    provider = OpenAICompatible(server.url, name="loopback")
    async with Tanuki(
        storage=storage, providers=[provider], teacher_models="loopback:small", embedding_model="loopback:embed"
    ) as running:
        yield running


async def taught(storage: MemoryStorage, f: Any, dataset: str = "SYMBOLIC_ALIGNMENTS") -> list[tuple[Any, Any]]:
    lines = [line async for batch in storage.scan(f"{tanuki.describe(f).hash}/{dataset}") for line in batch]
    records = [json.loads(line) for line in lines]
    assert all(record["source"] == "align" and record["v"] == 1 for record in records)
    return [(record["args"], record["output"]) for record in records]


async def shown(server: LoopbackServer, f: Any) -> list[Any]:
    """What the teacher is shown as answers given before."""
    with contextlib.suppress(tanuki.OutputError):
        await f("something new")
    return [json.loads(m["content"])["value"] for m in server.requests[0].body["messages"] if m["role"] == "assistant"]


async def test_equality_in_both_directions_teaches(
    opened: Tanuki, storage: MemoryStorage, server: LoopbackServer
) -> None:
    @tanuki.align
    async def lesson() -> None:
        assert await classify("I love you") == "good"
        assert "bad" == await classify("I hate you")  # noqa: SIM300

    await lesson()

    assert not server.requests
    assert await taught(storage, classify) == [(["I love you"], "good"), (["I hate you"], "bad")]
    assert await shown(server, classify) == ["good", "bad"]


async def test_is_none_true_and_false_teach(opened: Tanuki, storage: MemoryStorage, server: LoopbackServer) -> None:
    @tanuki.align
    async def lesson() -> None:
        assert await classify("a table") is None
        assert await is_spam("Win a prize!") is True
        assert False is await is_spam("See you at five")

    await lesson()

    assert await taught(storage, classify) == [(["a table"], None)]
    assert await taught(storage, is_spam) == [(["Win a prize!"], True), (["See you at five"], False)]
    assert await shown(server, is_spam) == [True, False]


async def test_not_teaches_false_for_a_bool_and_none_otherwise(opened: Tanuki, storage: MemoryStorage) -> None:
    @tanuki.align
    async def lesson() -> None:
        assert not await classify("People from Phoenix are called Phoenicians")
        assert not await is_spam("See you at five")

    await lesson()

    assert await taught(storage, classify) == [(["People from Phoenix are called Phoenicians"], None)]
    assert await taught(storage, is_spam) == [(["See you at five"], False)]


async def test_a_bare_assert_teaches_true(opened: Tanuki, storage: MemoryStorage) -> None:
    @tanuki.align
    async def lesson() -> None:
        assert await is_spam("Win a prize!"), "a prize is spam"

    await lesson()

    assert await taught(storage, is_spam) == [(["Win a prize!"], True)]


async def test_pairs_of_embeddings_teach_what_is_alike(opened: Tanuki, storage: MemoryStorage) -> None:
    @tanuki.align
    async def lesson() -> None:
        assert await vector("cat") == await vector("kitten")
        assert await vector("cat") != await vector("carburettor")

    await lesson()

    assert await taught(storage, vector, "POSITIVE_EMBEDDABLE_ALIGNMENTS") == [([["cat", {}], ["kitten", {}]], True)]
    assert await taught(storage, vector, "NEGATIVE_EMBEDDABLE_ALIGNMENTS") == [
        ([["cat", {}], ["carburettor", {}]], False)
    ]


async def expected(text: str) -> str:
    return "good" if "love" in text else "bad"


async def ask(text: str) -> Any:
    return await classify(text)


async def test_values_may_come_from_anywhere(opened: Tanuki, storage: MemoryStorage) -> None:
    cases = {"I love tea": "good", "I hate tea": "bad"}

    @tanuki.align
    async def lesson(suffix: str, *, label: str) -> None:
        for text, answer in cases.items():  # a loop over a variable of the enclosing function
            assert await classify(text) == answer
        result = await classify("lovely" + suffix)
        assert result == label
        assert await ask("through a helper") == await expected("love")
        assert await asyncio.gather(classify("one"), classify("two")) == ["good", "bad"]
        assert (await classify("three"), await classify("four")) == ("good", None)
        assert await classify("five") == "good" and await classify("six") == "bad"  # noqa: PT018  # a form to learn
        assert not await classify("seven") != "good"  # noqa: SIM202  # likewise
        nested = [await classify(f"item {number}") for number in range(2)]
        assert nested == ["good", "good"]

    await lesson("!", label="good")

    assert [answer for _, answer in await taught(storage, classify)] == [
        "good", "bad", "good", "good", "good", "bad", "good", None, "good", "bad", "good", "good", "good",
    ]  # fmt: skip


async def test_typed_values_teach(opened: Tanuki, storage: MemoryStorage, server: LoopbackServer) -> None:
    @tanuki.align
    async def lesson() -> None:
        assert await mood("yay") == Mood.HAPPY
        assert await person("Ada, 1815-12-10") == Person(name="Ada", born=date(1815, 12, 10))
        assert await point("1, 2") == Point(1, 2)
        assert await words("a b") == ["a", "b"]

    await lesson()

    assert await taught(storage, mood) == [(["yay"], "happy")]
    assert await taught(storage, person) == [(["Ada, 1815-12-10"], {"name": "Ada", "born": "1815-12-10"})]
    assert await taught(storage, point) == [(["1, 2"], {"x": 1, "y": 2})]
    assert await taught(storage, words) == [(["a b"], ["a", "b"])]


class Desk:
    greeting = "hello"

    @tanuki.patch
    async def polite(self, text: str) -> bool:
        """Tell whether a text is polite."""
        ...

    @tanuki.align
    async def align_polite(self) -> None:
        assert await self.polite(self.greeting)
        assert not await self.polite(self.__rude())

    def __rude(self) -> str:
        return "go away"


async def test_methods_teach_and_self_is_never_recorded(opened: Tanuki, storage: MemoryStorage) -> None:
    await Desk().align_polite()

    assert await taught(storage, Desk.polite) == [(["hello"], True), (["go away"], False)]


@tanuki.align
async def test_an_align_function_may_itself_be_a_test(opened: Tanuki) -> None:
    assert await classify("I love tests") == "good"
    assert await classify("a table") is None


async def test_an_assert_without_patched_functions_runs_as_plain_python(opened: Tanuki) -> None:
    @tanuki.align
    async def lesson(number: int) -> None:
        assert number == 1 or number == 2, "a plain message"
        assert number is not None
        assert not number == 3  # noqa: SIM201
        assert number

    await lesson(1)
    with pytest.raises(AssertionError, match="a plain message"):
        await lesson(4)


async def test_nothing_is_recorded_when_the_function_raises(opened: Tanuki, storage: MemoryStorage) -> None:
    @tanuki.align
    async def lesson() -> None:
        assert await classify("I love you") == "good"
        raise LookupError("stop")

    with pytest.raises(LookupError):
        await lesson()

    assert await taught(storage, classify) == []


@tanuki.align
async def wrong_operator() -> None:
    assert await count("a b") > 1


@tanuki.align
async def wrong_not_equal() -> None:
    assert await classify("x") != "good"


@tanuki.align
async def wrong_is_not() -> None:
    assert await classify("x") is not None


@tanuki.align
async def wrong_is_value() -> None:
    assert await classify("x") is "good"  # type: ignore[comparison-overlap]  # noqa: F632


@tanuki.align
async def wrong_through_len() -> None:
    assert len(await words("a b")) == 2


@tanuki.align
async def wrong_through_silent_function() -> None:
    assert type(await count("a")).__name__ == "int"


@tanuki.align
async def wrong_through_attribute() -> None:
    assert (await person("Ada")).name == "Ada"


@tanuki.align
async def wrong_or() -> None:
    assert await classify("x") == "good" or await classify("x") == "bad"


@tanuki.align
async def wrong_not_and() -> None:
    assert not (await is_spam("x") and await is_spam("y"))


@tanuki.align
async def wrong_in() -> None:
    assert await classify("x") in ("good", "bad")


@tanuki.align
async def wrong_bare() -> None:
    assert await classify("x")


@tanuki.align
async def wrong_not() -> None:
    assert not await count("x")


@tanuki.align
async def wrong_value() -> None:
    assert await classify("x") == "goood"


@tanuki.align
async def wrong_kind() -> None:
    assert await count("x") == "3"


@tanuki.align
async def wrong_two_answers() -> None:
    assert await classify("x") == await classify("y")


@tanuki.align
async def wrong_embedding_value() -> None:
    assert await vector("x") == [0.1, 0.2]


@tanuki.align
async def wrong_instance() -> None:
    assert await person("Ada") == Person.model_construct(name="Ada", born="never")


@tanuki.align
async def wrong_contents() -> None:
    assert await point("here") == Point("left", 2)  # type: ignore[arg-type]


@tanuki.align
async def wrong_gathered() -> None:
    assert len(await asyncio.gather(count("a"), count("b"))) == 2


@tanuki.align
async def wrong_passed_on() -> None:
    assert await count(await classify("x")) == 1  # type: ignore[arg-type]


@tanuki.align
async def wrong_branch() -> None:
    if await is_spam("x"):
        assert await is_spam("y")


WRONG = [each for name, each in list(globals().items()) if name.startswith("wrong_")]


@pytest.mark.parametrize("lesson", WRONG, ids=lambda f: f.__name__)
async def test_what_cannot_be_learnt_names_file_and_line(opened: Tanuki, storage: MemoryStorage, lesson: Any) -> None:
    with pytest.raises(AlignmentError) as caught:
        await lesson()

    first = lesson.__wrapped__.__code__.co_firstlineno
    assert caught.value.file == __file__
    assert caught.value.line in (first + 2, first + 3)
    assert f"{__file__}:{caught.value.line}" in str(caught.value)
    assert ("does not fit" in str(caught.value)) != ("write " in str(caught.value))
    assert await storage.names() == []


async def test_feedback_teaches_without_an_assert(
    opened: Tanuki, storage: MemoryStorage, server: LoopbackServer
) -> None:
    await tanuki.feedback(classify, "good", "I love you")
    await tanuki.feedback(Desk().polite, False, "go away")

    assert await taught(storage, classify) == [(["I love you"], "good")]
    assert await taught(storage, Desk.polite) == [(["go away"], False)]
    assert await shown(server, classify) == ["good"]
    with pytest.raises(AlignmentError, match="does not fit"):
        await tanuki.feedback(classify, "fine", "I love you")
    with pytest.raises(tanuki.InputError, match="embedding"):
        await tanuki.feedback(vector, [0.1], "cat")


async def test_the_later_of_two_answers_wins_with_a_warning(
    opened: Tanuki, storage: MemoryStorage, server: LoopbackServer, caplog: pytest.LogCaptureFixture
) -> None:
    @tanuki.align
    async def lesson(answer: Literal["good", "bad"]) -> None:
        assert await classify("tea") == answer

    for answer in ("good", "bad", "bad", "good"):
        await lesson(answer)

    assert await taught(storage, classify) == [(["tea"], "good"), (["tea"], "bad"), (["tea"], "good")]
    assert await shown(server, classify) == ["good"]
    assert "two different answers were aligned" in caplog.text


async def test_examples_are_there_after_a_restart(server: LoopbackServer, tmp_path: Path) -> None:
    @tanuki.align
    async def lesson() -> None:
        assert await classify("I love you") == "good"

    settings: Any = {
        "storage": tmp_path / "data",
        "providers": [OpenAICompatible(server.url, name="loopback")],
        "teacher_models": "loopback:small",
    }
    async with Tanuki(**settings):
        await lesson()
    async with Tanuki(**settings):
        assert await shown(server, classify) == ["good"]


@tanuki.patch(ignore_data_storage=True)
async def fleeting(text: str) -> bool:
    """Tell."""
    ...


async def test_ignored_storage_keeps_examples_in_memory(
    opened: Tanuki, storage: MemoryStorage, server: LoopbackServer
) -> None:
    @tanuki.align
    async def lesson() -> None:
        assert await fleeting("yes")

    await lesson()

    assert await shown(server, fleeting) == [True]
    await tanuki.flush()
    assert await storage.names() == []


def test_a_plain_def_is_refused() -> None:
    with pytest.raises(StubError, match="async def"):

        @tanuki.align
        def lesson() -> None: ...


async def test_an_assert_that_was_caught_leaves_nothing_behind(opened: Tanuki, storage: MemoryStorage) -> None:
    @tanuki.align
    async def lesson() -> None:
        with contextlib.suppress(ValueError):
            assert int("no number") > 3
        assert await classify("a") == "good"

    await lesson()

    assert await taught(storage, classify) == [(["a"], "good")]


async def test_an_assert_of_a_helper_that_python_decides_says_what_may_teach(opened: Tanuki) -> None:
    async def helper() -> None:
        assert await is_spam("a") is True

    @tanuki.align
    async def lesson() -> None:
        await helper()

    with pytest.raises(AssertionError) as caught:
        await lesson()
    assert "is_spam()" in caught.value.__notes__[0]


async def test_asserts_in_tasks_at_once_do_not_mix(opened: Tanuki, storage: MemoryStorage) -> None:
    async def slow(text: str) -> str:
        await asyncio.sleep(0)
        return text

    @tanuki.align
    async def lesson() -> None:
        async def one(text: str) -> None:
            assert await asyncio.gather(classify(text), slow(text)) == ["good", text]
            assert await slow(text) == text

        await asyncio.gather(*map(one, "abc"))

    await lesson()

    assert sorted(await taught(storage, classify)) == [(["a"], "good"), (["b"], "good"), (["c"], "good")]


def test_decorators_in_the_wrong_order_are_refused() -> None:
    async def lesson() -> None: ...

    async def decorated() -> None: ...

    functools.update_wrapper(decorated, lesson)

    for wrong, told in ((staticmethod(lesson), "@staticmethod above"), (classmethod(lesson), "@classmethod above")):
        with pytest.raises(StubError, match=told):
            tanuki.align(wrong)  # type: ignore[arg-type]
    for other in (decorated, tanuki.align(lesson), classify):
        with pytest.raises(StubError, match="next to `async def`"):
            tanuki.align(other)


class Indented:
    @tanuki.align
    async def lesson(self) -> None:
        assert await classify("""
            a text over lines
        and
its end""") == "good"  # fmt: skip


async def test_texts_over_several_lines_are_taught_as_they_are(opened: Tanuki, storage: MemoryStorage) -> None:
    await Indented().lesson()

    assert await taught(storage, classify) == [(["\n            a text over lines\n        and\nits end"], "good")]


async def test_no_name_of_an_align_function_is_special(opened: Tanuki, storage: MemoryStorage) -> None:
    @tanuki.align
    async def enclosing() -> None:
        assert await classify("a") == "good"

    await enclosing()
    await Class().Class()

    assert await taught(storage, classify) == [(["a"], "good"), (["b"], "bad")]


class Class:
    @tanuki.align
    async def Class(self) -> None:  # noqa: N802  # as its class
        assert await classify("b") == "bad"


async def test_a_function_without_source_is_refused(opened: Tanuki) -> None:
    namespace: dict[str, Any] = {"tanuki": tanuki, "classify": classify}
    exec("@tanuki.align\nasync def lesson():\n    assert await classify('x') == 'good'\n", namespace)

    with pytest.raises(AlignmentError, match="put it into a file"):
        await namespace["lesson"]()


async def test_optimized_python_is_refused(tmp_path: Path, subprocess_env: dict[str, str]) -> None:
    script = tmp_path / "lesson.py"
    script.write_text(
        "import asyncio, tanuki_async as tanuki\n"
        "@tanuki.align\nasync def lesson():\n    assert True\n"
        "try:\n    asyncio.run(lesson())\nexcept tanuki.AlignmentError as error:\n    print(error)\n"
    )
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-O", str(script)],
        env=subprocess_env,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "removes asserts" in done.stdout
