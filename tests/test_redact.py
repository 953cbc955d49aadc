"""What must not be stored is replaced before it is queued; models see it all the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import BaseModel

import tanuki_async as tanuki
import tanuki_async.abc
from tanuki_async import Example
from tanuki_async._errors import SettingsError
from tanuki_async._records import JsonValue
from tanuki_async.storage.memory import MemoryStorage
from tanuki_async.testing import FakeProvider, Value


class User(BaseModel):
    name: str
    email: str


class Reply(BaseModel):
    to: str
    text: str


def without_digits(example: Example) -> Example | None:
    text = example.args[0]
    assert isinstance(text, str)
    if "never" in text:
        return None
    return dataclasses.replace(example, args=("".join("#" if each.isdigit() else each for each in text),))


@tanuki.patch(redact=["user.email", "return.to", "others.name"])
async def greet(user: User, others: list[User], *, tone: str = "kind") -> Reply:
    """Greet somebody."""


@tanuki.patch(redact=without_digits)
async def summarize(text: str) -> str:
    """Summarize a text."""


@tanuki.patch
async def plain(text: str) -> str:
    """Say it plainly."""


@tanuki.patch(redact="text")
async def embed(text: str) -> tanuki.Embedding[list[float]]:
    """Embed a text."""


@tanuki.align
async def align_summarize() -> None:
    assert await summarize("call 555") == "a number"


@tanuki.align
async def align_embed() -> None:
    assert await embed("Ann") != await embed("Bob")


def opened(storage: MemoryStorage, provider: FakeProvider, **settings: Any) -> tanuki.Tanuki:
    return tanuki.Tanuki(storage=storage, providers=[provider], teacher_models="fake:t", student_model=None, **settings)


async def everything(storage: MemoryStorage) -> str:
    lines = [line for name in await storage.names() async for batch in storage.scan(name) for line in batch]
    return b"\n".join(lines).decode()


async def test_paths_are_replaced_in_what_is_stored_and_not_in_what_a_model_sees() -> None:
    storage, provider = MemoryStorage(), FakeProvider(lambda _: Value({"to": "a@b.c", "text": "hi"}))
    async with opened(storage, provider):
        user = User(name="Ann", email="a@b.c")
        assert await greet(user, [User(name="Bob", email="b@b.c")]) == Reply(to="a@b.c", text="hi")
        await tanuki.flush()
        assert "a@b.c" in provider.calls[0].turns[0].text
    stored = await everything(storage)
    assert '"args":[{"name":"Ann","email":"[redacted]"},[{"name":"[redacted]","email":"b@b.c"}]]' in stored
    assert '"output":{"to":"[redacted]","text":"hi"}' in stored
    assert stored.endswith('"redacted":true}')


async def test_a_function_redacts_or_keeps_an_example_out_of_storage() -> None:
    storage, provider = MemoryStorage(), FakeProvider(lambda _: Value("short"))
    async with opened(storage, provider):
        for text in ("call 555", "call 556", "never this", "as it is"):
            await summarize(text)
        await tanuki.flush()
        assert tanuki.describe(summarize).hash in str(await storage.names())
    stored = await everything(storage)
    assert stored.count('"call ###"') == 1  # two that differ in what is redacted are one example
    assert "never" not in stored
    assert '"as it is"' in stored
    assert stored.count('"redacted":true') == 1


async def test_aligned_examples_are_redacted_too_and_shown_only_where_they_were_aligned() -> None:
    storage, provider = MemoryStorage(), FakeProvider(lambda _: Value("short"))
    async with opened(storage, provider):
        await align_summarize()
        await summarize("x")
        assert "call 555" in str(provider.calls[-1].head.examples)
    assert "555" not in await everything(storage)
    async with opened(storage, provider):
        await summarize("y")
        assert provider.calls[-1].head.examples == ()  # `call ###` would teach what was never said


async def test_pairs_of_an_embedding_are_redacted() -> None:
    storage = MemoryStorage()
    async with opened(storage, FakeProvider()):
        await align_embed()
    stored = await everything(storage)
    assert "Ann" not in stored
    assert '[["[redacted]",{}],["[redacted]",{}]]' in stored


async def test_what_a_tanuki_redacts_holds_for_every_function_that_has_it() -> None:
    storage, provider = MemoryStorage(), FakeProvider(lambda _: Value("short"))
    async with opened(storage, provider, redact=["text", "nobody"]):
        await plain("secret")
        await tanuki.flush()
    assert "secret" not in await everything(storage)


async def test_a_rule_that_fails_lets_the_call_answer_and_stores_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def broken(example: Example) -> Example:
        raise RuntimeError("broken rule")

    storage, provider = MemoryStorage(), FakeProvider(lambda _: Value("short"))
    async with opened(storage, provider, redact=broken):
        assert await plain("secret") == "short"
        assert await plain("secret 2") == "short"
        await tanuki.flush()
    assert await everything(storage) == ""
    assert [record.message for record in caplog.records if "redacting" in record.message] == [
        "plain(): examples are not kept, as redacting them fails"
    ]


async def test_a_student_is_asked_what_it_has_learnt_to_see() -> None:
    asked: list[Mapping[str, JsonValue]] = []

    class Learnt(tanuki.abc.Student):
        async def answer(self, inputs: Mapping[str, JsonValue]) -> JsonValue:
            asked.append(inputs)
            return "from the student"

    provider = FakeProvider(lambda _: Value("from the teacher"))
    async with opened(MemoryStorage(), provider) as running:
        await summarize("first")
        desk = running.desk(summarize.__tanuki__)
        desk.apprentice.serving = Learnt()
        assert await summarize("call 555") == "from the student"
        assert await summarize("never 555") == "from the teacher"
    assert asked == [{"text": "call ###"}]


def test_what_redact_cannot_mean_is_refused_at_decoration() -> None:
    with pytest.raises(SettingsError, match="redact is a function"):
        tanuki.patch(redact=[1])


async def test_a_path_of_no_parameter_is_refused_at_the_first_call() -> None:
    @tanuki.patch(redact=["txet"])
    async def typo(text: str) -> str: ...

    async with opened(MemoryStorage(), FakeProvider()):
        with pytest.raises(SettingsError, match="did you mean 'text'"):
            await typo("x")
