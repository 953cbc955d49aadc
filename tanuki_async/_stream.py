"""The story of one stream: a teacher's list, handed over item by item while it is written, then remembered whole."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from typing import Any, cast

from pydantic_core import from_json, to_json

from tanuki_async import _route
from tanuki_async._budget import Held
from tanuki_async._call import TAKE_OVER, fitting, remember
from tanuki_async._codec import parse, partial, prompt, tokens
from tanuki_async._codec.describe import Call
from tanuki_async._codec.parse import Complaint, Parsed
from tanuki_async._codec.schema import Wire
from tanuki_async._desk import Desk
from tanuki_async._errors import (
    CallTimeoutError,
    OutputError,
    ProviderError,
    ProviderUnavailableError,
    ProviderUnreachableError,
    RateLimitedError,
)
from tanuki_async._pool import streaming
from tanuki_async._pool.pool import Progress
from tanuki_async._records import Completion, Request, Turn, Usage
from tanuki_async._route import Teacher

logger = logging.getLogger("tanuki_async.call")

CUT = "- it broke off before the list was closed"
NO_LIST = "- after these comes something that is not the next item of a JSON list"
BROKEN_OFF = (ProviderUnavailableError, ProviderUnreachableError, RateLimitedError)
"""How a stream may end in the middle, so that asking for the rest makes sense."""
_END: Any = object()


async def stream(desk: Desk, bound: Call) -> AsyncGenerator[Any]:
    """Yield the items of one answer, each as soon as it is whole and fits its type.

    Nothing is sent before the first item is asked for. `timeout` bounds the wait for each item, repairs and retries
    included; time that the consumer takes between two does not count.

    Items that were yielded stand. Where one does not fit, or the answer breaks off, the request is ended and a teacher
    is asked for the items that come after the last good one: at most `max_repairs` times, then OutputError, or the
    provider's own error, is raised in the loop. A complete list is recorded as one example; an unfinished one is not.
    Leaving the loop ends the request.
    """
    progress = Progress()
    try:
        async with aclosing(_from_teachers(desk, bound, progress)) as items:
            while (item := await _within(desk, items, progress)) is not _END:
                yield item
    except Exception:
        desk.tally.failed += 1
        raise
    desk.tally.teacher += 1


async def _within(desk: Desk, items: AsyncGenerator[Any], progress: Progress) -> Any:
    """Return the next item, _END after the last. CallTimeoutError where it takes too long."""
    seconds = desk.options.timeout
    progress.deadline = desk.clock.monotonic() + seconds
    deadline = asyncio.timeout(seconds)
    try:
        async with deadline:
            return await anext(items, _END)
    except TimeoutError as error:
        if deadline.expired():
            raise CallTimeoutError(desk.spec.name, progress.waiting_for, seconds) from error
        raise


@dataclass(slots=True)
class _Told:
    """What the answers of one call gave so far."""

    turn: Turn
    wire: Wire
    items: list[str] = field(default_factory=list[str])  # accepted, as the model wrote them
    outputs: list[bytes] = field(default_factory=list[bytes])  # the same as natural JSON
    attempts: list[str] = field(default_factory=list[str])  # answers that went wrong
    complaints: list[str] = field(default_factory=list[str])
    room: int | None = None  # tokens to allow, after an answer was cut off by their limit
    complete: bool = False

    def turns(self) -> tuple[Turn, ...]:
        """What to ask next."""
        if self.items:
            return prompt.resume(self.turn, self.items, self.complaints[-1] if self.complaints else CUT)
        if self.attempts:
            return prompt.repair((self.turn,), self.attempts[-1], self.complaints[-1])
        return (self.turn,)

    def take(self, item: str, place: int) -> Parsed | Complaint:
        """Accept an item if it fits."""
        read = partial.read(self.wire, item, place)
        if isinstance(read, Parsed):
            self.items.append(item)
            self.outputs.append(read.output_json)
        return read

    def fail(self, answer: str, complaint: str) -> None:
        """Take note of an answer that went wrong."""
        self.attempts.append(answer)
        self.complaints.append(complaint)


async def _from_teachers(desk: Desk, bound: Call, progress: Progress) -> AsyncGenerator[Any]:
    """Ask the first teacher whose window fits; a later one goes on where an earlier one cannot answer any more."""
    if not desk.recalled:
        progress.waiting_for = "storage, for its examples"
        await desk.recall()
    assert desk.spec.wire is not None  # embeddings are no streams
    told = _Told(prompt.input_turn(bound), desk.spec.wire)
    able = fitting(desk, told.turn, tokens.size(desk.head, (told.turn,)))
    for place, teacher in enumerate(able, 1):
        progress.others = place < len(able)
        try:
            async with aclosing(_converse(desk, teacher, told, progress)) as items:
                async for item in items:
                    yield item
        except TAKE_OVER as error:
            if place == len(able):
                raise
            logger.warning("%s(): the next teacher takes over: %s", desk.spec.name, error)
        else:
            output = b"[" + b",".join(told.outputs) + b"]"
            remember(desk, teacher, bound, output, repaired=bool(told.attempts))
            return


async def _converse(desk: Desk, teacher: Teacher, told: _Told, progress: Progress) -> AsyncGenerator[Any]:
    """Ask until the list is complete, each time for what is missing."""
    while True:
        failure: ProviderError | None = None
        answer = _Answer(desk, teacher, told, progress)
        try:
            async with aclosing(answer.items()) as items:
                async for item in items:
                    yield item
        except BROKEN_OFF as error:
            if not answer.text:  # nothing came: the pool has tried all that it can
                raise
            failure = error
            told.fail("".join(answer.text), CUT)
        if told.complete:
            return
        logger.info(
            "%s(): a stream went wrong after %d items: %s", desk.spec.name, len(told.items), told.complaints[-1]
        )
        if len(told.attempts) > desk.options.max_repairs + (told.room is not None):
            if failure is not None:
                raise failure
            spec = desk.spec
            raise OutputError(spec.name, spec.output_text, tuple(told.attempts), tuple(told.complaints))


class _Answer:
    """One answer while it comes."""

    def __init__(self, desk: Desk, teacher: Teacher, told: _Told, progress: Progress) -> None:
        self._desk, self._teacher, self._told, self._progress = desk, teacher, told, progress
        self.text: list[str] = []
        self._request = Request(model=teacher.model, head=desk.head, turns=told.turns(), max_tokens=told.room)
        self._usage: Usage | None = None

    async def items(self) -> AsyncGenerator[Any]:
        """Yield the items that fit. Tells `told` how it ended: complete, or why not."""
        desk, told, reader = self._desk, self._told, partial.Items()
        async with AsyncExitStack() as stack:
            held = None
            if desk.purse is not None:
                size, room = tokens.size(desk.head, self._request.turns), self._request.max_tokens
                room = room or desk.options.generation_params.max_new_tokens
                held = await stack.enter_async_context(desk.purse.hold(self._teacher.model, size, room, self._progress))
            stack.callback(self._settle, held)
            found = streaming.stream(desk.pool, self._teacher.provider, self._request, self._progress)
            pieces = await stack.enter_async_context(aclosing(found))
            place = 0
            async for piece in pieces:
                if isinstance(piece, Completion):
                    self._usage = piece.usage
                    for value in self._finish(reader, piece):
                        yield value
                    return
                self.text.append(piece)
                for item in reader.feed(piece):
                    read = told.take(item, place)
                    if isinstance(read, Complaint):
                        told.fail("".join(self.text), read.text)
                        return
                    place += 1
                    yield read.value
                if reader.broken:
                    told.fail("".join(self.text), NO_LIST)
                    return

    def _finish(self, reader: partial.Items, completion: Completion) -> list[Any]:
        """Judge a whole answer; return the items of a list that could only be found in the end."""
        told, text = self._told, "".join(self.text)
        if reader.closed:
            told.complete = True
        elif completion.truncated:
            asked = told.room or self._desk.options.generation_params.max_new_tokens
            told.room = _route.larger_answer(self._teacher.model, asked, completion.usage.output_tokens) or told.room
            told.fail(text, CUT)
        elif reader.begun:
            told.fail(text, CUT)
        else:
            parsed = parse.parse(told.wire, text)
            if isinstance(parsed, Complaint):
                told.fail(text, parsed.text)
                return []
            told.complete = True
            told.outputs += [to_json(each) for each in from_json(parsed.output_json)]
            return cast("list[Any]", parsed.value)
        return []

    def _settle(self, held: Held | None) -> None:
        """Count what was used; where that is not known, since the answer was not read to its end, about what it was."""
        if self._usage is None and self.text:
            asked = tokens.size(self._request.head, self._request.turns)
            self._usage = Usage(requests=1, input_tokens=asked, output_tokens=tokens.estimate("".join(self.text)))
        if held is not None:
            held.used = self._usage
        if self._usage is not None:
            self._desk.tally.spend(self._teacher.model, self._usage)
