"""Which model answers, and does the prompt fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tanuki_async._errors import PromptTooLongError, SettingsError
from tanuki_async._models import takers
from tanuki_async._records import Attached, Model, Turn
from tanuki_async.abc import Provider

ANSWER_RESERVE = 1_024
"""Tokens of a window that are kept free for the answer when the user names no limit."""


@dataclass(frozen=True, slots=True)
class Teacher:
    """A model that may answer, and who speaks for it."""

    provider: Provider
    model: Model


def fitting(
    teachers: Sequence[Teacher], size: int, *, function: str, largest: Callable[[], str], answer: int | None = None
) -> list[Teacher]:
    """Keep the teachers whose window takes a prompt of `size` tokens and an answer, in order of preference.

    PromptTooLongError where there is none; `largest` then names the part of the prompt to shorten.
    """
    fit = [teacher for teacher in teachers if room([teacher], answer) >= size]
    if fit:
        return fit
    windows = {str(teacher.model): teacher.model.context_window for teacher in teachers}
    raise PromptTooLongError(function, size, windows, largest())


def room(teachers: Sequence[Teacher], answer: int | None) -> int:
    """Return how many tokens a prompt may have that fits all `teachers` and leaves room for the answer."""
    return min(teacher.model.context_window for teacher in teachers) - (answer or ANSWER_RESERVE)


def taking(teachers: Sequence[Teacher], turns: Iterable[Turn], *, function: str) -> Sequence[Teacher]:
    """Keep the teachers that take all that is attached to `turns`. SettingsError where there is none."""
    attached: set[Attached] = {attachment.kind for turn in turns for attachment in turn.attachments}
    able = [teacher for teacher in teachers if attached <= teacher.model.attachments]
    if able:
        return able
    raise _none_takes(attached, teachers, function)


def _none_takes(attached: set[Attached], teachers: Sequence[Teacher], function: str) -> SettingsError:
    kinds = " and ".join(f"{kind}s" for kind in sorted(attached, reverse=True))
    asked = ", ".join(str(teacher.model) for teacher in teachers)
    others = [name for name in takers("image") if all(name in takers(kind) for kind in attached)]
    said = ", ".join(map(repr, sorted(attached)))
    return SettingsError(
        f"{function}() was given {kinds}, and none of its models is known to take {kinds} ({asked}); name one that "
        f"does, such as {', '.join(map(repr, others[:3]))}, or describe yours: Model(…, attachments={{{said}}})"
    )


def larger_answer(model: Model, asked: int | None, used: int) -> int | None:
    """Return a limit with which to ask again after an answer was cut off, or None where the model allows no more."""
    wanted = 2 * max(asked or 0, used, 256)
    ceiling = model.max_output or model.context_window
    limit = min(wanted, ceiling)
    return limit if limit > max(asked or 0, used) else None
