"""From the text of an answer to a value of the declared type, or to a complaint that the model can act on."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

from pydantic import ValidationError
from pydantic_core import ErrorDetails, to_json

from tanuki_async._codec.schema import Wire
from tanuki_async._errors import clip
from tanuki_async._records import record

logger = logging.getLogger("tanuki_async.call")

COMPLAINT = 1_000  # characters, at most
PROBLEMS = 4  # of which a complaint tells
LOOKED_AT = 100  # of a hundred thousand problems
SEARCHED = 200_000  # characters; no JSON is looked for in longer prose
CANDIDATES = 16
DEPTH = 200  # pydantic's JSON parser reads no deeper

_FENCE = re.compile(r"```[\w+-]*[ \t]*\n?(.*?)```", re.DOTALL)
_TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[{}\[\]]', re.DOTALL)
_OBJECT = re.compile(r"""\{\s*["'}]""")
_BEGUN = re.compile(r"""\{\s*(?:["'}]|$)|\[\s*(?:["'{\[\]\d-]|true|false|null|True|False|None|$)""")
_LOOSE = re.compile(
    r"""(?P<double>"(?:[^"\\]++|\\.)*+"?)|'(?P<single>(?:[^'\\]++|\\.)*+)'|(?P<word>\b(?:True|False|None)\b)"""
    r"""|(?P<comma>,(?=\s*[\]}]))""",
    re.DOTALL,
)
_WORDS = {"True": "true", "False": "false", "None": "null"}


@record
class Parsed:
    """A value of the declared type. `output_json` is its natural JSON; `repaired`: found only by being tolerant."""

    value: Any
    output_json: bytes
    repaired: bool = False


@dataclass(frozen=True, slots=True)
class Complaint:
    """Why an answer does not fit, in words for the model that gave it."""

    text: str


def parse(wire: Wire, text: str) -> Parsed | Complaint:
    """Read an answer. Never raises, whatever the text is.

    The text is first taken as it is. Then thoughts are cut off, and the JSON in it is tried: the text between fences,
    then each outermost object or array, the last first, because models correct themselves as they go on. Last, a text
    without any JSON may be the bare value. Nothing is completed and nothing guessed: what is returned was validated.
    """
    try:
        value, output = wire.read(text)
    except Exception as error:  # noqa: BLE001  # a validator of the user's may raise anything; `complain` logs it
        return _tolerant(wire, text, error)
    return Parsed(value, output)


def _tolerant(wire: Wire, text: str, complaint: Exception) -> Parsed | Complaint:
    for candidate in _candidates(wire, text.encode(errors="replace").decode()):
        if candidate == text:
            continue  # as it has been read already
        try:
            value, output = wire.read(candidate)
        except Exception as error:  # noqa: BLE001  # as in `parse`
            if _is_syntax(complaint) and not _is_syntax(error):
                complaint = error  # rather about the JSON that is there than about the prose around it
        else:
            return Parsed(value, output, repaired=True)
    return complain(wire, text, complaint)


def _candidates(wire: Wire, text: str) -> Iterator[str]:
    said = text.rpartition("</think>")[2].strip("\ufeff \t\r\n")
    fenced = [found[1].strip() for found in _FENCE.finditer(said)][-CANDIDATES:]
    yield said
    yield from reversed(fenced)
    spans = _spans(said) if len(said) <= SEARCHED else []
    yield from reversed(spans)
    yield from (strict for each in reversed(spans) if (strict := _strict(each)) != each)
    if not spans and len(said) <= SEARCHED:
        yield from _bare(wire, fenced[-1] if fenced else said)


def _bare(wire: Wire, said: str) -> Iterator[str]:
    """Take a text without JSON as the value itself; free prose only where any text is a value."""
    if not said or said[0] in '{["' or _OBJECT.search(said):
        return
    if wire.prose:
        yield _quoted(said)
        return
    yield _WORDS.get(said, said)
    for each in (said, said.strip("`'\"*. \n")):
        yield _quoted(each)


def _quoted(said: str) -> str:
    return to_json(said.encode(errors="replace").decode()).decode()


def _spans(text: str) -> list[str]:
    """Find the outermost balanced objects and arrays, in order, at most the last few.

    A bracket of prose that is never closed is stepped over. Where JSON is never closed the answer was cut off, and
    then nothing is taken: neither a part of it, which may look whole, nor what it was about to correct.
    """
    spans: list[str] = []
    position = 0
    for _ in range(CANDIDATES):
        start = _walk(text, position, spans)
        if start is None:
            return spans[-CANDIDATES:]
        if _BEGUN.match(text, start):
            break
        position = start + 1
    return []


def _walk(text: str, position: int, spans: list[str]) -> int | None:
    """Collect spans from `position` on; return where a bracket stands that is never closed, or None."""
    start = depth = 0
    while found := _TOKEN.search(text, position):
        mark, position = found[0], found.end()
        if mark in "{[":
            start, depth = (found.start(), 1) if depth == 0 else (start, depth + 1)
            if depth > DEPTH:
                return start
        elif mark in "}]" and depth:
            depth -= 1
            if depth == 0:
                spans.append(text[start:position])
        elif depth == 0:
            position = found.start() + 1  # a quotation mark in prose
    return start if depth else None


def _strict(text: str) -> str:
    """Rewrite what Python or JavaScript would write: single quotes, True and None, a comma before the end."""
    return _LOOSE.sub(_replacement, text)


def _replacement(found: re.Match[str]) -> str:
    if (single := found["single"]) is not None:
        return '"' + re.sub(r'\\\'|"', lambda each: "'" if each[0] == "\\'" else '\\"', single) + '"'
    if word := found["word"]:
        return _WORDS[word]
    return "" if found["comma"] else found[0]


def complain(wire: Wire, text: str, error: Exception) -> Complaint:
    """Say why an answer does not fit, in words for the model that gave it."""
    if not text.strip():
        problems = ["the answer is empty"]
    elif _is_foreign(error):
        logger.warning("a validator or class of the answer's type failed: %r", error, exc_info=error)
        problems = [clip(f"the code that checks it failed: {type(error).__name__}: {error}", 110)]
    elif isinstance(error, ValidationError) and not _is_syntax(error):
        problems = _problems(wire, error)
    else:
        problems = [f"the answer is not one JSON value ({clip(_told(error), 120)})"]
    hint = "Answer again, with JSON only, that fits this schema: " + to_json(wire.answer.schema).decode()
    told = "\n".join(f"- {problem}" for problem in problems)
    return Complaint(f"{clip(told, COMPLAINT - 340)}\n{clip(hint, 300)}")


def _is_syntax(error: Exception) -> bool:
    """Tell whether this is about text that is no JSON, not about a value that does not fit."""
    if not isinstance(error, ValidationError):
        return not _is_foreign(error)
    if error.error_count() > 1:
        return False
    first = error.errors(include_url=False, include_context=False)[0]
    return first["type"] in {"json_invalid", "string_unicode"}


def _is_foreign(error: Exception) -> bool:
    """Tell what only code of the user's raises: pydantic hands on all that is no ValueError or AssertionError."""
    return not isinstance(error, (ValueError, RecursionError))


def _told(error: Exception) -> str:
    text = error.errors(include_url=False)[0]["msg"] if isinstance(error, ValidationError) else str(error)
    return text.removeprefix("Invalid JSON: ")


def _problems(wire: Wire, error: ValidationError) -> list[str]:
    found = error.errors(include_url=False, include_context=False)
    told = list(dict.fromkeys(_problem(wire, each) for each in found[:LOOKED_AT]))
    more = len(told) - PROBLEMS + len(found[LOOKED_AT:])
    return told[:PROBLEMS] + ([f"and {more} more"] if more > 0 else [])


def _problem(wire: Wire, detail: ErrorDetails) -> str:
    place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in detail["loc"])
    root = "value" if wire.enveloped else ""
    given = cast(object, detail["input"])
    came = "" if detail["type"] == "missing" else f", not {clip(_shown(given), 40)}"
    where = clip((root + place).lstrip(".") or "the answer", 40)
    return clip(f"{where}: {detail['msg']}{came}", 110)


def _shown(value: object) -> str:
    return to_json(value, fallback=repr).decode(errors="replace")
