"""Read what Python's `repr` wrote, without executing anything: a fixed list of values, and nothing else."""

from __future__ import annotations

import datetime
import decimal
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, NoReturn

__all__ = ["ReprError", "read_repr"]

DEEPEST = 100
"""Brackets within brackets; no value of a function is so deep, and a reader that recurses must end."""

_SPACE = re.compile(r"[ \t\r\n]*")
_NUMBER = re.compile(r"-?(?:[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?)(?![\w.])|-?(?:inf|nan)(?!\w)")
_STRING = re.compile(r"""(b?)('(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*")""")
_HEX = "([0-9a-fA-F]{%d})"
_ESCAPE = re.compile(rf"\\(?:x{_HEX % 2}|u{_HEX % 4}|U{_HEX % 8}|(.))", re.DOTALL)
_NAME = re.compile(r"[^\W\d]\w*(?:\.(?:[^\W\d]\w*|<locals>))*")
_KEYWORD = re.compile(r"([^\W\d]\w*)=")
_ENUM = re.compile(r"<([^\W\d][\w.]*): ")
_CLASS = re.compile(r"<(?:class|enum) '[\w.<>]+'>")
_OFFSET = re.compile(r"TzInfo\((?:(UTC)|([+-])(\d\d):(\d\d)|([+-]?\d{1,6}))\)")

_PLAIN = {"\\": "\\", "'": "'", '"': '"', "n": "\n", "r": "\r", "t": "\t", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}
_WORDS: Mapping[str, Any] = {
    "None": None,
    "True": True,
    "False": False,
    "datetime.timezone.utc": datetime.timezone.utc,  # noqa: UP017  # the name that a repr uses
}


class ReprError(ValueError):
    """The text is no repr of a value that is read here; the message says where and why."""


def _list(items: Iterable[Any] = (), maxlen: int | None = None) -> list[Any]:
    return list(items)


def _pairs(*given: Any) -> dict[Any, Any]:
    return dict(*given)


def _last(*given: Any) -> Any:
    return given[-1] if len(given) > 1 else {}


def _zone(*, key: str) -> datetime.tzinfo:
    import zoneinfo

    return zoneinfo.ZoneInfo(key)


_MADE: Mapping[str, Callable[..., Any]] = {
    "datetime.datetime": datetime.datetime,
    "datetime.date": datetime.date,
    "datetime.time": datetime.time,
    "datetime.timedelta": datetime.timedelta,
    "datetime.timezone": datetime.timezone,
    "zoneinfo.ZoneInfo": _zone,
    "Decimal": decimal.Decimal,
    "UUID": uuid.UUID,
    "PosixPath": PurePosixPath,
    "PurePosixPath": PurePosixPath,
    "WindowsPath": PureWindowsPath,
    "PureWindowsPath": PureWindowsPath,
    "bytearray": bytes,
    "set": _list,
    "frozenset": _list,
    "deque": _list,
    "OrderedDict": _pairs,
    "Counter": _pairs,
    "defaultdict": _last,
    **dict.fromkeys(("Url", "AnyUrl", "AnyHttpUrl", "HttpUrl", "FileUrl"), str),
}
"""What is made of its arguments. Sets become lists, since what is in them may be models, which become dicts."""


def read_repr(text: str) -> Any:
    """Return the value whose repr `text` is; ReprError where it is anything else.

    Models, dataclasses and named tuples, `Name(field=…)`, become dicts of their fields; enum members their values.
    """
    reader = _Reader(text)
    value = reader.value(0)
    reader.end()
    return value


class _Reader:
    """Reads one text from left to right."""

    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0

    def value(self, depth: int) -> Any:
        if depth > DEEPEST:
            self._fail("it is nested too deeply")
        self._space()
        match self._text[self._at : self._at + 1]:
            case "(":
                return self._tuple(depth)
            case "[":
                return self._items("[", "]", depth)[0]
            case "{":
                return self._braces(depth)
            case "<":
                return self._angle(depth)
            case _:
                return self._scalar(depth)

    def end(self) -> None:
        self._space()
        if self._at < len(self._text):
            self._fail("more follows")

    def _scalar(self, depth: int) -> Any:
        if found := self._take(_STRING):
            return self._strings(found)
        if found := self._take(_NUMBER):
            return self._number(found[0])
        if found := self._take(_OFFSET):
            return _offset(found)
        if found := self._take(_NAME):
            return self._named(found[0], depth)
        return self._fail("no value begins here")

    def _strings(self, found: re.Match[str]) -> str | bytes:
        inside = _ESCAPE.sub(self._unescaped, found[2][1:-1])
        if not found[1]:
            return inside
        try:
            return inside.encode("latin-1")
        except UnicodeEncodeError:
            return self._fail("bytes hold more than bytes")

    def _unescaped(self, found: re.Match[str]) -> str:
        digits = found[1] or found[2] or found[3]
        if digits:
            if (code := int(digits, 16)) > 0x10FFFF:
                self._fail("there is no such character")
            return chr(code)
        if found[4] not in _PLAIN:
            self._fail(f"unknown escape \\{found[4]}")
        return _PLAIN[found[4]]

    def _number(self, digits: str) -> int | float:
        try:
            return int(digits) if digits.lstrip("-").isdecimal() else float(digits)
        except ValueError:
            return self._fail("the number is too long")

    def _named(self, name: str, depth: int) -> Any:
        if not self._follows("("):
            if name in _WORDS:
                return _WORDS[name]
            self._fail(f"{name!r} is no value")
        places, fields = self._arguments(depth)
        make = _MADE.get(name)
        if make is None:
            if name.startswith("datetime."):
                self._fail(f"{name}(…) is no repr")
            if places:
                self._fail(f"{name}(…) does not name its fields")
            return fields
        try:
            return make(*places, **fields)
        except (TypeError, ValueError, OverflowError, ArithmeticError, LookupError) as error:
            return self._fail(f"this is no {name}: {error}")

    def _arguments(self, depth: int) -> tuple[list[Any], dict[str, Any]]:
        places: list[Any] = []
        fields: dict[str, Any] = {}
        self._at += 1
        for _ in self._until(")"):
            if found := self._take(_KEYWORD):
                fields[found[1]] = self.value(depth + 1)
            elif fields:
                self._fail("a value without a name follows one with a name")
            else:
                places.append(self.value(depth + 1))
        return places, fields

    def _tuple(self, depth: int) -> tuple[Any, ...] | Any:
        items, trailing = self._items("(", ")", depth)
        if len(items) == 1 and not trailing:
            self._fail("brackets around one value are no repr")
        return tuple(items)

    def _items(self, opening: str, closing: str, depth: int) -> tuple[list[Any], bool]:
        assert self._text[self._at] == opening
        self._at += 1
        items: list[Any] = []
        for _ in self._until(closing):
            items.append(self.value(depth + 1))  # noqa: PERF401  # reading moves on
        return items, self._text[: self._at - 1].rstrip().endswith(",")

    def _braces(self, depth: int) -> dict[Any, Any] | list[Any]:
        self._at += 1
        keys: dict[Any, Any] = {}
        items: list[Any] = []
        for _ in self._until("}"):
            item = self.value(depth + 1)
            if not self._follows(":"):
                items.append(item)
                continue
            self._at += 1
            try:
                keys[item] = self.value(depth + 1)
            except TypeError:
                self._fail("a key is no plain value")
        if keys and items:
            self._fail("a dict and a set are mixed")
        return items or keys

    def _angle(self, depth: int) -> Any:
        if self._take(_CLASS):
            return None  # what a defaultdict makes, or the enum of a member that was taken apart; of no use here
        if not self._take(_ENUM):
            self._fail("an object that does not show what is in it")
        value = self.value(depth + 1)
        self._expect(">")
        return value

    def _until(self, closing: str) -> Iterator[None]:
        """Go on between commas, until `closing` was read."""
        while not self._follows(closing):
            yield
            if not self._follows(","):
                break
            self._at += 1
        self._expect(closing)

    def _take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        self._space()
        if found := pattern.match(self._text, self._at):
            self._at = found.end()
        return found

    def _space(self) -> None:
        found = _SPACE.match(self._text, self._at)
        assert found is not None
        self._at = found.end()

    def _follows(self, mark: str) -> bool:
        self._space()
        return self._text.startswith(mark, self._at)

    def _expect(self, mark: str) -> None:
        if not self._follows(mark):
            self._fail(f"{mark!r} is missing")
        self._at += len(mark)

    def _fail(self, why: str) -> NoReturn:
        raise ReprError(f"{why}, at character {self._at + 1}: {self._text[self._at : self._at + 40]!r}")


def _offset(found: re.Match[str]) -> datetime.tzinfo:
    """Read the time zone that pydantic gives to moments."""
    if found[1]:
        return datetime.UTC
    seconds = int(found[5]) if found[5] else (int(found[3]) * 60 + int(found[4])) * (-60 if found[2] == "-" else 60)
    if abs(seconds) >= 86_400:
        raise ReprError(f"there is no such time zone: {found[0]}")
    return datetime.timezone(datetime.timedelta(seconds=seconds))
