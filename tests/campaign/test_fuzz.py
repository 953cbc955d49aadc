"""Reads random answers to functions of random types: a value of the type, or a documented error, and soon.

`TANUKI_FUZZ_ANSWERS` says how many answers are read (default 2,000; 1,000,000 is the whole campaign); a twentieth as
many are streamed, in random pieces. `TANUKI_FUZZ_SEED` repeats a run, `TANUKI_FUZZ_FIRST` begins at a later type of it.
"""

from __future__ import annotations

import itertools
import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from random import Random
from typing import Any

import pytest
from _fuzz import ANSWERS, CHUNK, FIRST, SEED, TELL, Log, drawn, good_answer, outcome, stub
from _fuzz_answers import spoiled
from _fuzz_fits import fits
from _fuzz_types import Typed, text
from pydantic import ValidationError

import tanuki_async as tanuki
from tanuki_async import InputError, OutputError, Tanuki
from tanuki_async._function import patched
from tanuki_async._lines import decode_line
from tanuki_async._records import Completion, Request, Usage
from tanuki_async.abc import Http, Provider
from tanuki_async.storage.memory import MemoryStorage

EACH = 50  # calls of one type
STREAMS = 5  # of one type
GROWTH = 60  # MiB

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(14_400)]


class Fuzzer(Provider):
    """Answers with a spoiled form of what it is given; now and then cut off."""

    name = "fuzz"

    def __init__(self, draw: Random) -> None:
        self.draw, self.good, self.given = draw, "", list[str]()

    async def complete(self, request: Request, http: Http) -> Completion:
        self.given.append(spoiled(self.draw, self.good))
        return Completion(self.given[-1], Usage(requests=1), truncated=self.draw.random() < 0.02)

    async def stream(self, request: Request, http: Http) -> AsyncGenerator[str | Completion]:
        completion = await self.complete(request, http)
        left = completion.text
        while left:
            size = self.draw.choice([1, 2, 7, 50]) if len(left) < 20_000 else 5_000
            yield left[:size]
            left = left[size:]
        yield completion

    def clue(self, found: Typed) -> str:
        return f"{found.annotation} after {[each[:300] for each in self.given]!r}"

    def hint(self, found: Typed) -> str:
        return f"{found.annotation!s:.80} after {[f'{each[:16]!r}… ({len(each)})' for each in self.given]}"


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Keep what is logged of a million answers from piling up."""
    logger = logging.getLogger("tanuki_async")
    level, logger.level = logger.level, logging.CRITICAL
    yield
    logger.setLevel(level)


async def test_an_answer_becomes_a_value_of_its_type_or_a_documented_error() -> None:
    log = Log("answers")
    for first in itertools.count(FIRST, CHUNK):
        storage, fuzzer = MemoryStorage(), Fuzzer(Random(f"{SEED} answers {first}"))
        async with Tanuki(storage=storage, providers=[fuzzer], teacher_models="fuzz:m"):
            for place in range(first, first + CHUNK):
                draw, found, function = drawn(place)
                for _ in range(EACH):
                    await one_call(log, fuzzer, function, found, draw)
                await assert_records_fit(log, storage, function, found)
        if (first - FIRST) % TELL == 0:
            log.tell(place)
        if log.answers >= ANSWERS:
            break
    log.tell(place)
    assert log.ends["value"] > log.answers // 40
    assert log.ends["OutputError"]
    assert log.ends["unreadable"] < log.ends["records"] // 4
    assert log.resident[-1] <= log.resident[0] + GROWTH


async def one_call(log: Log, fuzzer: Fuzzer, function: Any, found: Typed, draw: Random) -> None:
    value = found.make(draw)
    fuzzer.good, fuzzer.given = good_answer(function, value) or "{}", []
    began = time.process_time()
    result, error = await outcome(function(value))
    log.timed(time.process_time() - began, fuzzer.hint(found))
    log.ends[type(error).__name__ if error else "value"] += 1
    log.answers += len(fuzzer.given)
    if error is None:
        assert fits(result, found.annotation), f"{result!r:.500} is no {fuzzer.clue(found)}"
    else:
        assert isinstance(error, OutputError | InputError), f"{error!r} of {fuzzer.clue(found)}"
        assert len(str(error)) < 2_000


async def assert_records_fit(log: Log, storage: MemoryStorage, function: Any, found: Typed) -> None:
    """Whatever was recorded is read back as a value of the type, if pydantic reads what it writes for such values."""
    await tanuki.flush()
    spec = patched(function).spec
    async for batch in storage.scan(f"{spec.hash}/PATCHES"):
        for line in batch:
            try:
                value = spec.wire.load(json.dumps(decode_line(line).output))
            except ValidationError:
                log.ends["unreadable"] += 1
            else:
                log.ends["records"] += 1
                assert fits(value, found.annotation), f"{line!r:.500} is no {found.annotation}"


async def test_a_stream_gives_items_of_its_type_and_ends_or_a_documented_error() -> None:
    log = Log("streams")
    for first in itertools.count(FIRST, CHUNK):
        fuzzer = Fuzzer(Random(f"{SEED} streams {first}"))
        async with Tanuki(storage=MemoryStorage(), providers=[fuzzer], teacher_models="fuzz:m"):
            for place in range(first, first + CHUNK):
                draw, found, _ = drawn(place)
                function = stub(str, AsyncIterator[found.annotation])
                for _ in range(STREAMS):
                    await one_stream(log, fuzzer, function, found, draw)
        if (first - FIRST) % TELL == 0:
            log.tell(place)
        if log.answers >= ANSWERS // 20:
            break
    log.tell(place)
    assert log.ends["whole"] > log.answers // 40
    assert log.ends["OutputError"]
    assert log.resident[-1] <= log.resident[0] + GROWTH


async def one_stream(log: Log, fuzzer: Fuzzer, function: Any, found: Typed, draw: Random) -> None:
    values = [found.make(draw) for _ in range(draw.randrange(5))]
    fuzzer.good, fuzzer.given = good_answer(function, values) or '{"value":[]}', []
    items: list[Any] = []
    began = time.process_time()
    _, error = await outcome(collect(function(text(draw)), items))
    log.timed(time.process_time() - began, fuzzer.hint(found))
    log.ends[type(error).__name__ if error else "whole"] += 1
    log.ends["items"] += len(items)
    log.answers += len(fuzzer.given)
    assert all(fits(item, found.annotation) for item in items), f"{items!r:.500} are no {fuzzer.clue(found)}"
    assert error is None or isinstance(error, OutputError), f"{error!r} of {fuzzer.clue(found)}"


async def collect(stream: Any, items: list[Any]) -> None:
    async for item in await stream:
        items.append(item)  # noqa: PERF401  # those before an error are looked at, too
