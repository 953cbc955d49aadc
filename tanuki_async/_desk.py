"""What the calls of one function share in one open Tanuki, gathered once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Protocol

from tanuki_async._answers import Answers, Flights
from tanuki_async._batcher import Batcher, Payer
from tanuki_async._budget import Purse
from tanuki_async._clock import Clock
from tanuki_async._codec import prompt
from tanuki_async._codec.describe import FunctionSpec
from tanuki_async._codec.tokens import turn_tokens
from tanuki_async._deadlines import Deadlines
from tanuki_async._hedge import Hedger
from tanuki_async._pool.pool import Pool
from tanuki_async._records import Example, Head, Turn
from tanuki_async._redact import Redaction
from tanuki_async._route import Teacher, room, taking
from tanuki_async._settings import Options
from tanuki_async._tally import Tally
from tanuki_async.abc import Student

logger = logging.getLogger("tanuki_async.call")


class Remember(Protocol):
    """Takes one line for a dataset. Never waits, never raises."""

    def __call__(self, name: str, line: bytes, /) -> None: ...


class Apprentice(Protocol):
    """What a call asks of distillation."""

    def student(self) -> Student | None:
        """Whoever serves now."""
        ...

    def due_audit(self) -> bool:
        """Draw whether this answer of the student shall be checked."""
        ...

    async def audited(self, *, agreed: bool) -> None:
        """Take note of one check."""
        ...

    async def fault(self) -> None:
        """Take note of an answer that did not fit the type."""
        ...


class NoApprentice:
    """Stands where nothing is distilled."""

    def student(self) -> Student | None:
        return None

    def due_audit(self) -> bool:
        return False

    async def audited(self, *, agreed: bool) -> None:
        return

    async def fault(self) -> None:
        return


class Desk:
    """Everything that a call of one function needs besides its arguments.

    `recall` reads what storage knows of the function; until it has been awaited once, calls wait for it.
    """

    __slots__ = (
        "__weakref__", "_examples", "_head", "_recall", "_recalling", "answers", "apprentice", "batcher", "clock",
        "deadlines", "flights", "hedger", "options", "patches", "payer", "plain", "pool", "purse", "recalled",
        "redaction", "remember", "roomy", "spawn", "spec", "tally", "teachers",
    )  # fmt: skip

    def __init__(
        self,
        *,
        spec: FunctionSpec,
        options: Options,
        teachers: tuple[Teacher, ...],
        pool: Pool,
        clock: Clock,
        patches: str,
        remember: Remember,
        spawn: Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]],
        recall: Callable[[Desk], Awaitable[None]],
        tally: Tally,
        hedger: Hedger | None = None,
        answers: Answers | None = None,
        flights: Flights | None = None,
        purse: Purse | None = None,
        batcher: Batcher | None = None,
        redaction: Redaction | None = None,
    ) -> None:
        self.spec, self.options, self.teachers, self.pool, self.clock = spec, options, teachers, pool, clock
        self.patches = patches  # the dataset that calls are remembered in
        self.remember, self.spawn = remember, spawn
        self.deadlines = Deadlines(options.timeout)
        # A prompt of more tokens needs a look at who takes it; so does each that may have something attached.
        self.roomy = -1 if spec.media else room(teachers, options.generation_params.max_new_tokens)
        self.apprentice: Apprentice = NoApprentice()
        self.tally = tally
        self.hedger, self.purse = hedger, purse  # None where not asked for; so are these two
        self.answers, self.flights = answers, flights
        self.redaction = redaction  # None: examples are stored as they are
        self.plain = hedger is None and purse is None  # one request is all there is to an answer
        self.batcher = batcher  # where the function embeds its input; with who pays for that
        self.payer = Payer(spec.name, tally, purse, options.timeout) if batcher else None
        self._recall = recall
        self._recalling: asyncio.Task[None] | None = None
        self.recalled = False
        self._examples: dict[str, Example] = {}
        self._head: Head | None = None

    async def recall(self) -> None:
        """Wait until storage was read, at the first call only. Many first calls read once."""
        if self.recalled:
            return
        if self._recalling is None:
            self._recalling = asyncio.ensure_future(self._recall(self))
        try:
            await asyncio.shield(self._recalling)
        finally:
            self.recalled = self._recalling.done()

    @property
    def head(self) -> Head:
        """The stable part of the prompt; made anew when an aligned example was added."""
        if self._head is None:
            window = min(teacher.model.context_window for teacher in self.teachers)
            self._head = prompt.head(
                self.spec,
                list(self._examples.values()),
                self.options.generation_params,
                tokens=min(window // 4, prompt.EXAMPLE_TOKENS),
            )
        return self._head

    def teach(self, example: Example) -> None:
        """Show an aligned example in prompts from now on. A later answer for the same arguments replaces an earlier."""
        question = self.spec.text_of(example.args, example.kwargs)
        known = self._examples.pop(question, None)
        if known is not None and known.output != example.output:
            logger.warning(
                "%s(): two different answers were aligned for %s; the later one, %r, wins",
                self.spec.name, question[:200], example.output,
            )  # fmt: skip
        self._examples[question] = example
        self._head = None
        if self.answers is not None:
            self.answers.learn(self.spec, example)

    def forget(self) -> None:
        """Drop what is remembered of aligned examples and answers; a recall reads what is left of them."""
        self._examples.clear()
        self._head = None
        if self.answers is not None:
            self.answers.clear()

    def taking(self, turn: Turn) -> Sequence[Teacher]:
        """Return the teachers that take what is attached to `turn` and to the examples before it."""
        return taking(self.teachers, (*self.head.examples, turn), function=self.spec.name)

    def largest_part(self, turn: Turn) -> str:
        """Name what makes a prompt long, for the message of an error."""
        examples = sum(4 * turn_tokens(each) for each in self.head.examples)
        parts = {
            "the arguments": len(turn.text),
            "the aligned examples": examples,
            "the docstring and answer schema": len(self.head.system),
            "what is attached": 4 * sum(each.tokens for each in turn.attachments),
        }
        return max(parts, key=lambda part: parts[part])
