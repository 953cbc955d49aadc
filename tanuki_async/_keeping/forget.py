"""Forget: examples of a function that a predicate names leave data, damaged lines, students and running processes."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any, cast

from tanuki_async._cards import Card, forgotten_key
from tanuki_async._clock import SYSTEM_CLOCK, Clock, timestamp
from tanuki_async._distill.state import State
from tanuki_async._errors import StorageError, UsageError
from tanuki_async._keeping import journals
from tanuki_async._keeping.fitting import names_in
from tanuki_async._keeping.verify import DAMAGED
from tanuki_async._lines import decode_line
from tanuki_async._record import dataset
from tanuki_async._records import Example, JsonValue
from tanuki_async._redact import OUTPUT
from tanuki_async._settings import nearest
from tanuki_async.abc import Storage

__all__ = ["Forgotten", "Wanted", "forget", "wanted"]

_PAIRS = (dataset.POSITIVE_EMBEDDABLE_ALIGNMENTS, dataset.NEGATIVE_EMBEDDABLE_ALIGNMENTS)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which lines are meant. `inputs` tells the names of recorded arguments; `traces` are bytes that a damaged line
    with the same content would hold.
    """

    meets: Callable[[Example, Sequence[Mapping[str, JsonValue]]], bool]
    inputs: Callable[[Example, bool], Sequence[Mapping[str, JsonValue]]]
    traces: tuple[bytes, ...] = ()
    all: bool = False

    def line(self, line: bytes, *, pairs: bool) -> bool:
        """Tell whether a line is meant. One that cannot be read is, as soon as it holds a trace."""
        if self.all:
            return True
        try:
            example = decode_line(line)
        except StorageError:
            return any(trace in line for trace in self.traces)
        return self.meets(example, self.inputs(example, pairs))


@dataclass(slots=True)
class Forgotten:
    """What was found, or is gone: lines by name, and what became of students by the environment they serve."""

    lines: dict[str, int] = field(default_factory=dict[str, int])
    students: dict[int, str] = field(default_factory=dict[int, str])


def wanted(card: Card, *, where: str | None = None, contains: str | None = None, before: str | None = None) -> Wanted:
    """Read what a user says of the examples that are meant; without any of these, all are. UsageError explains."""
    names = names_in(card.signature)

    def inputs(example: Example, pairs: bool) -> Sequence[Mapping[str, JsonValue]]:
        if not pairs:
            given = names.inputs(example.args, example.kwargs) if names else {}
            return [{**given, OUTPUT: example.output}]
        sides = cast("Sequence[list[Any]]", example.args)  # each is [*args, kwargs]
        return [names.inputs(side[:-1], side[-1]) if names else {} for side in sides]

    if where is not None:
        if names is None:
            raise UsageError(f"the parameters of {card.signature!r} cannot be read; name examples with --contains")
        path, values, traces = _where(where, names.all)
        return Wanted(lambda _, sides: any(_has(side, path, values) for side in sides), inputs, traces)
    if contains is not None:
        if not contains:
            raise UsageError("--contains needs a text; all examples are meant by --all")
        traces = tuple({contains.encode(), json.dumps(contains)[1:-1].encode()})
        return Wanted(lambda example, _: _contains(_everything(example), contains), inputs, traces)
    if before is not None:
        moment = _moment(before)
        return Wanted(lambda example, _: example.at < moment, inputs)
    return Wanted(lambda _, __: True, inputs, all=True)


async def forget(
    storage: Storage, card: Card, which: Wanted, *, do: bool, students: bool, clock: Clock = SYSTEM_CLOCK
) -> Forgotten:
    """Count what is meant; with `do`, take it out of the data, and tell students and running processes."""
    found = Forgotten()
    if do:
        found.lines.update(await journals.forget(storage, _meant(card, which)))
    for each in dataset.DATASETS:
        for name in (dataset.name_of(card.hash, each), dataset.name_of(card.hash, each) + DAMAGED):
            keep = _keeper(which, pairs=each in _PAIRS)
            count = await storage.rewrite(name, keep) if do else await _count(storage, name, keep)
            if count:
                found.lines[name] = found.lines.get(name, 0) + count
    if count := await journals.forget_refused(storage, _meant(card, which), do=do):
        found.lines["refused by storage"] = count
    if do:  # also where nothing was found: a process that was killed half-way may have left students as they were
        await _tell(storage, card, clock)
    for key in await storage.keys(f"{card.hash}/state-"):
        number = key.rpartition("-")[2]
        if number.isdecimal() and (found.lines or students):
            told = await _students(storage, card, key, int(number), do=do, students=students, clock=clock)
            if told:
                found.students[int(number)] = told
    return found


def _meant(card: Card, which: Wanted) -> Callable[[str, bytes], bool]:
    pairs = {dataset.name_of(card.hash, each) for each in _PAIRS}
    return lambda name, line: name.startswith(f"{card.hash}/") and which.line(line, pairs=name in pairs)


def _keeper(which: Wanted, *, pairs: bool) -> Callable[[list[bytes]], list[bytes]]:
    return lambda lines: [line for line in lines if not which.line(line, pairs=pairs)]


async def _count(storage: Storage, name: str, keep: Callable[[list[bytes]], list[bytes]]) -> int:
    return sum([len(lines) - len(await asyncio.to_thread(keep, lines)) async for lines in storage.scan(name)])


async def _tell(storage: Storage, card: Card, clock: Clock) -> None:
    """Let running processes know that what they remember of a function may be gone."""
    key = forgotten_key(card.hash)
    while True:
        held = await storage.get(key)
        times = json.loads(held.value)["times"] + 1 if held and held.value else 1
        note = json.dumps({"v": 1, "times": times, "at": timestamp(clock.now())}).encode()
        if await storage.put(key, note, version=held.version if held else None) is not None:
            return


async def _students(
    storage: Storage, card: Card, key: str, number: int, *, do: bool, students: bool, clock: Clock
) -> str:
    """Take away the students of one environment, or have their successor trained soon; say which."""
    while (held := await storage.get(key)) is not None and held.value:
        state = State.from_json(held.value)
        if state.student is None and not (students and await storage.keys(_prefix(card, number))):
            return ""
        kind = f"the {state.kind} student" if state.student else "earlier students"
        if not do:
            return f"{kind} would be {'deleted' if students else 'trained anew; --students deletes it'}"
        state = dataclasses.replace(_after(state, students=students), updated_at=timestamp(clock.now()))
        if await storage.put(key, state.to_json(), version=held.version) is None:
            continue  # another process changed it just now
        if not students:
            return f"{kind} serves until its successor, which is due now, has learnt from what is left"
        for each in await storage.keys(_prefix(card, number)):
            await storage.remove(each)
        return f"{kind} is deleted here; what a provider trained must be deleted there"
    return ""


def _after(state: State, *, students: bool) -> State:
    """Return the state in which the next training is due as if it were the first."""
    reason = "examples were forgotten"
    if students:
        return state.without_student("collecting", reason, trainings=0, trained_on=0, trainer=None, not_before="")
    return state.at_rest(reason, trainings=0, not_before="")  # who trains on what is gone now is overtaken


def _prefix(card: Card, number: int) -> str:
    return f"{card.hash}/student-{number}-"


def _where(text: str, names: Sequence[str]) -> tuple[list[str], list[JsonValue], tuple[bytes, ...]]:
    path, equals, value = text.partition("=")
    steps = path.strip().split(".")
    if not equals or not all(steps):
        raise UsageError(f"--where takes name=value, such as 'user.email=a@b.c', not {text!r}")
    if steps[0] not in (*names, OUTPUT):
        raise UsageError(f"the function has no parameter {steps[0]!r}{nearest(steps[0], [*names, OUTPUT])}")
    values: list[JsonValue] = [value]
    with contextlib.suppress(ValueError):
        values.append(json.loads(value))
    return steps, values, tuple({value.encode(), json.dumps(value)[1:-1].encode()}) if value else ()


def _has(value: JsonValue | Mapping[str, JsonValue], path: Sequence[str], values: Sequence[JsonValue]) -> bool:
    """Tell whether a value stands at the end of a path; lists on the way, and at its end, are looked through."""
    if isinstance(value, list):
        if not path and value in values:
            return True
        return any(_has(item, path, values) for item in value)
    if not path:
        return any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in values)
    return isinstance(value, Mapping) and path[0] in value and _has(value[path[0]], path[1:], values)


def _everything(example: Example) -> list[JsonValue]:
    return [list(example.args), dict(example.kwargs), example.output]


def _contains(value: JsonValue, text: str) -> bool:
    if isinstance(value, str):
        return text in value
    if isinstance(value, Mapping):
        return any(text in key or _contains(item, text) for key, item in value.items())
    if isinstance(value, list):
        return any(_contains(item, text) for item in value)
    return value is not None and text == json.dumps(value)


def _moment(text: str) -> str:
    """Read a date or a moment, in UTC where it does not say, as records write it."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"--before takes a date, such as {date.today().isoformat()}, not {text!r}") from None
    return timestamp(moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC))
