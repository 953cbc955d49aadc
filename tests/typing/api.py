"""What type checkers must see, and what they must refuse. Read by mypy and pyright, never run.

`# type: ignore[code]` and `# pyright: ignore[rule]` mark lines that must fail: an ignore that is not needed is an error.
"""

# pyright takes a stub of docstring and `...` only

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar, assert_type

from pydantic import BaseModel

import tanuki_async as tanuki
from tanuki_async import Embedding
from tanuki_async.abc import Provider, Storage
from tanuki_async.providers.openai import OpenAI, OpenAICompatible
from tanuki_async.storage.filesystem import FilesystemStorage
from tanuki_async.storage.memory import MemoryStorage
from tanuki_async.testing import FakeProvider

T = TypeVar("T")
Mood = Literal["good", "bad"]


@dataclass
class Address:
    street: str
    city: str


class Box(BaseModel, Generic[T]):
    item: T


@tanuki.patch
async def bare(text: str) -> Mood | None:
    """Classify the sentiment of a message."""
    ...


@tanuki.patch()
async def called(text: str, *, strict: bool = False) -> int:
    """Count the greetings."""
    ...


@tanuki.patch(hedge=tanuki.Hedge(after=0.9), single_flight=True, cache="memory", budget=tanuki.Budget(usd=1, per="day"))
async def careful(text: str) -> Mood:
    """Classify the sentiment of a message."""
    ...


@tanuki.patch(timeout=10, teacher_models=["openai:gpt-6-luna"], student_model=None, generation_params={"seed": 1})
async def configured(first: int, *rest: int, **named: str) -> list[Address]:
    """Make addresses."""
    ...


@tanuki.patch
async def embed(text: str) -> Embedding[list[float]]:
    """Embed a text."""
    ...


@tanuki.patch
async def boxed(text: str) -> Box[int]:
    """Box a number."""
    ...


@tanuki.patch
async def streamed(text: str) -> AsyncIterator[Address]:
    """List the addresses."""
    ...


class Desk:
    @tanuki.patch
    async def method(self, text: str) -> bool:
        """Is it polite?"""
        ...

    @classmethod
    @tanuki.patch
    async def class_method(cls, text: str) -> float:
        """How polite is it?"""
        ...

    @staticmethod
    @tanuki.patch(max_repairs=0)
    async def static_method(text: str) -> bytes:
        """Encode it."""
        ...


@tanuki.align
async def align_bare() -> None:
    assert await bare("I love you") == "good"


@tanuki.align
async def align_streamed() -> None:
    assert await streamed("x") == [Address("Main Street", "Springfield")]  # type: ignore[comparison-overlap]


@tanuki.align
async def align_with(text: str, *, mood: Mood) -> int:
    assert await bare(text) == mood
    return 1


async def results() -> None:
    assert_type(await bare("x"), Mood | None)
    assert_type(await called("x", strict=True), int)
    assert_type(await configured(1, 2, 3, a="b"), list[Address])
    assert_type(await embed("x"), list[float])
    assert_type(await boxed("x"), Box[int])
    assert_type(await Desk().method("x"), bool)
    assert_type(await Desk.method(Desk(), "x"), bool)
    assert_type(await Desk.class_method("x"), float)
    assert_type(await Desk().class_method("x"), float)
    assert_type(await Desk.static_method("x"), bytes)
    assert_type(await streamed("x"), AsyncIterator[Address])
    async for address in await streamed("x"):
        assert_type(address, Address)
    assert_type(await align_bare(), None)
    assert_type(await align_with("x", mood="good"), int)


async def wrong_arguments() -> None:
    await bare(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await bare()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await bare(txet="x")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await called("x", True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await configured("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await Desk().method(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await Desk.class_method()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await align_with("x", mood="ugly")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def wrong_results() -> None:
    number: int = await bare("x")  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    texts: list[str] = await embed("x")  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    repr((number, texts))


def plain(text: str) -> str:
    raise NotImplementedError


tanuki.patch(plain)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
tanuki.patch(timeuot=3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
tanuki.patch(cache="disk")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
tanuki.patch(timeout="3")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
tanuki.align(plain)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def many() -> None:
    assert_type(tanuki.amap(bare, ["a", "b"]), AsyncGenerator[Mood | None, None])
    async for mood in tanuki.amap(bare, ["a", "b"], concurrency=4, ordered=False, on_error="skip", progress=True):
        assert_type(mood, Mood | None)
    async for number in tanuki.amap(called, ["a"], on_error="return"):
        assert_type(number, int | Exception)
    async for flag in tanuki.amap(Desk().method, ["a"]):
        assert_type(flag, bool)
    tanuki.amap(bare, ["a"], on_error="ignore")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    tanuki.amap(plain, ["a"])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def as_values() -> None:
    """A patched function goes wherever a coroutine function goes."""
    function: Callable[[str], Awaitable[Mood | None]] = bare
    coroutine: Callable[[str], Coroutine[Any, Any, int]] = called
    wrong: Callable[[int], Awaitable[Mood | None]] = bare  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    repr((function, coroutine, wrong))


async def owners(storage: Storage, provider: Provider) -> None:
    async with tanuki.Tanuki(
        storage=storage, providers=[provider, OpenAI()], teacher_models=["openai:gpt-6-luna"]
    ) as t:
        assert_type(t, tanuki.Tanuki)
        await tanuki.flush()
    storages: list[Storage] = [MemoryStorage(), FilesystemStorage(".align")]
    providers: list[Provider] = [FakeProvider(), OpenAICompatible("http://127.0.0.1:8000/v1")]
    repr((storages, providers))
    assert_type(await tanuki.status(bare), tanuki.Status)
    assert_type(await tanuki.distill(bare), tanuki.Status)
    assert_type(tanuki.describe(bare), tanuki.Description)
    await tanuki.feedback(bare, "good", "I like it")
    await tanuki.feedback(bare, "good", 3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@tanuki.patch
async def look(photo: tanuki.Image, plan: tanuki.Document | None = None) -> str:
    """Say what is on it."""
    ...


async def images(data: bytes) -> None:
    assert_type(await tanuki.Image.open("photo.png"), tanuki.Image)
    assert_type(await look(tanuki.Image(data), await tanuki.Document.open("plan.pdf")), str)
    await look(tanuki.Image(url="https://pictures.example/1.png"))
    await look(tanuki.Document(data))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    tanuki.Image("photo.png")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def errors(error: tanuki.TanukiError) -> None:
    if isinstance(error, tanuki.ProviderError):
        assert_type(error.status, int | None)
        assert_type(error.retry_after, float | None)
    if isinstance(error, tanuki.OutputError):
        assert_type(error.attempts, tuple[str, ...])
