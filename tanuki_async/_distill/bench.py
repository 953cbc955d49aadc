"""Where models are asked as students: about one function, within its budget, counted in its tally."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Literal

from tanuki_async._codec import parse, prompt, tokens
from tanuki_async._codec.describe import Parameter
from tanuki_async._codec.parse import Parsed
from tanuki_async._desk import Desk
from tanuki_async._errors import InputError, OutputError, PromptTooLongError
from tanuki_async._pool.pool import Progress
from tanuki_async._records import Completion, Example, Head, JsonValue, Request, Turn, Usage
from tanuki_async._route import ANSWER_RESERVE, Teacher
from tanuki_async.abc import Http

Purpose = Literal["student", "learning"]
"""Why a student is asked: it serves, or it is being looked at."""

SHARE_OF_TIME = 0.5
"""Part of a call's time that its student may take: the rest is for the teacher, should the student not answer."""
SHARE_OF_BUDGET = 0.25
"""Part of what is left of a budget that looking at one student may use."""


@dataclass(frozen=True, slots=True, eq=False)
class Bench:
    """What learning with models needs of an open Tanuki. `find` gets a model by its name, or raises SettingsError."""

    desk: Desk
    find: Callable[[str], Teacher]
    http: Http

    def head(self, examples: Sequence[Example] = ()) -> Head:
        """Render the stable part of a student's prompt, with these examples in it."""
        window = min(teacher.model.context_window for teacher in self.desk.teachers)
        return prompt.head(
            self.desk.spec,
            examples,
            self.desk.options.generation_params,
            count=len(examples),
            tokens=min(window // 4, prompt.EXAMPLE_TOKENS),
        )

    def line(self, example: Example) -> bytes | None:
        """Render one example as a line of training data; None where what was attached to it is not kept."""
        return prompt.training_line(self.desk.spec, example)

    async def ask(self, who: Teacher, head: Head, inputs: Mapping[str, JsonValue], purpose: Purpose) -> JsonValue:
        """Ask a model for one answer, as plain JSON. OutputError where it does not fit the type; it is asked once.

        Raises what the pool raises too, PromptTooLongError, BudgetExceededError, and TimeoutError after its share of
        the function's timeout.
        """
        desk, wire = self.desk, self.desk.spec.wire
        assert wire is not None  # embeddings have no student
        turn = self._turn(inputs)
        size = tokens.size(head, (turn,))
        request = Request(model=who.model, head=head, turns=(turn,), size=size)
        if size + ANSWER_RESERVE > who.model.context_window:
            windows = {str(who.model): who.model.context_window}
            raise PromptTooLongError(desk.spec.name, size, windows, "the arguments")
        seconds = SHARE_OF_TIME * desk.options.timeout
        progress = Progress(desk.clock.monotonic() + seconds)
        progress.others = purpose == "student"  # the teacher can answer
        async with asyncio.timeout(seconds):
            completion = await self._exchange(who, request, size, progress)
        desk.tally.spend(who.model, completion.usage, on="student_cost" if purpose == "student" else "learning_cost")
        parsed = parse.parse(wire, completion.text)
        if isinstance(parsed, Parsed):
            answer: JsonValue = json.loads(parsed.output_json)
            return answer
        raise OutputError(desk.spec.name, desk.spec.output_text, (completion.text,), (parsed.text,))

    def _turn(self, inputs: Mapping[str, JsonValue]) -> Turn:
        """Render arguments, given by name, as a live call would. InputError where what is attached is not kept."""
        turn = self.desk.spec.turn_of(*_arguments(self.desk.spec.parameters, inputs))
        if turn is None:
            raise InputError(self.desk.spec.name, None, "an image or document is too large to be shown again")
        return turn

    async def _exchange(self, who: Teacher, request: Request, size: int, progress: Progress) -> Completion:
        desk, room = self.desk, self.desk.options.generation_params.max_new_tokens
        async with AsyncExitStack() as stack:
            held = None
            if desk.purse is not None:
                held = await stack.enter_async_context(desk.purse.hold(who.model, size, room, progress))
            completion = await desk.pool.complete(who.provider, request, progress)
            if held is not None:
                held.used = completion.usage
        return completion

    async def affordable(self, who: Teacher, head: Head, inputs: Sequence[Mapping[str, JsonValue]]) -> int:
        """Return how many of these questions a model may be asked for learning, as budgets stand. All without one.

        SettingsError where a budget is in dollars and the model's price is unknown.
        """
        purse = self.desk.purse
        if purse is None or not inputs:
            return len(inputs)
        await purse.recall()
        sizes = [tokens.size(head, (self._turn(each),)) for each in inputs]
        room = self.desk.options.generation_params.max_new_tokens or ANSWER_RESERVE
        usage = Usage(requests=1, input_tokens=sum(sizes) // len(sizes) + 1, output_tokens=room)
        amount = purse.amount(who.model, usage)
        able = float(len(inputs))
        for what, left in purse.left().items():
            needed = getattr(amount, what.partition(" ")[0])
            if needed:
                able = min(able, SHARE_OF_BUDGET * left / needed)
        return int(able)


def _arguments(
    parameters: Sequence[Parameter], inputs: Mapping[str, Any]
) -> tuple[tuple[JsonValue, ...], dict[str, JsonValue]]:
    """Return arguments by place and by name, as a record holds them, from inputs that are all by name."""
    args: list[JsonValue] = []
    kwargs: dict[str, JsonValue] = {}
    for parameter in parameters:
        if parameter.name not in inputs:
            continue
        value = inputs[parameter.name]
        if parameter.kind == "var_positional":
            args += value
        elif parameter.kind == "var_keyword":
            kwargs |= value
        elif parameter.kind == "keyword_only":
            kwargs[parameter.name] = value
        else:
            args.append(value)
    return tuple(args), kwargs
