"""Takes the items out of a list while its text still arrives, each as soon as it is whole."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import cast

from tanuki_async._codec import parse
from tanuki_async._codec.parse import Complaint, Parsed
from tanuki_async._codec.schema import Wire
from tanuki_async._errors import clip

_SPACE = r"[ \t\r\n]{0,64}"
_ENVELOPE = re.compile(rf'\{{{_SPACE}"value"{_SPACE}:{_SPACE}\[')
_MAYBE = re.compile(  # the beginning of one, at the end of what has come
    rf'\{{{_SPACE}(?:"(?:v(?:a(?:l(?:u(?:e(?:"{_SPACE}(?::{_SPACE})?)?)?)?)?)?)?)?\Z'
)
_BARE = re.compile(r"[ \t\r\n]*(?:```[\w+-]*[ \t\r\n]+)?\[")
_THOUGHTS = re.compile(r"\s*<think>")
_THOUGHT = "</think>"
_STRUCTURE = re.compile(r'["{}\[\],]')
_IN_STRING = re.compile(r'["\\]')
_FENCE = re.compile(r"`{1,3}[\w+-]*[ \t\r\n]*")
_BLANK = " \t\r\n"


class Items:
    """Feed it the text of an answer, however it is cut; it gives the JSON of each item of the list once that is whole.

    The list is the first one in an envelope, `{"value": [`, or one that the answer begins with, fenced or not. What
    comes before and after is passed over, thoughts between tags too. Every character is looked at a bounded number of
    times. `closed` tells that the list has ended, `broken` that what came is no JSON and nothing more will be given.
    """

    def __init__(self) -> None:
        self.closed = self.broken = self.begun = False
        self._start = _Start()
        self._parts: list[str] = []  # of the item that is on its way
        self._kind = ""  # of that item: "string", "nested", "plain", or "" between items
        self._depth = 0
        self._in_string = self._escaped = False
        self._after = False  # an item has ended, a comma or the end must come

    def feed(self, text: str) -> list[str]:
        """Take the next piece of the answer; return the items that it completes."""
        if not self.begun:
            found = self._start.feed(text)
            if found is None:
                return []
            self.begun, text = True, found
        return list(self._items(text)) if not (self.closed or self.broken) else []

    def _items(self, text: str) -> Iterator[str]:
        position = 0
        while position < len(text) and not (self.closed or self.broken):
            if not self._kind:
                position = self._between(text, position)
                continue
            end, whole = self._inside(text, position)
            self._parts.append(text[position:end])
            position = end
            if whole:
                yield "".join(self._parts).strip(_BLANK)
                self._parts.clear()
                self._kind, self._after = "", True

    def _between(self, text: str, position: int) -> int:
        """Look at one character between two items; return where to go on."""
        mark = text[position]
        if mark in _BLANK:
            return position + 1
        if mark == "]":
            self.closed = True
        elif self._after:
            self.broken, self._after = mark != ",", False
        elif mark in ",}:":
            self.broken = True
        else:
            self._kind = "string" if mark == '"' else "nested" if mark in "{[" else "plain"
            self._in_string, self._depth = self._kind == "string", 0
            if self._in_string:
                self._parts.append(mark)
            return position + self._in_string
        return position + 1

    def _inside(self, text: str, position: int) -> tuple[int, bool]:
        """Follow an item; return where it ends, or the text does, and whether it is whole there."""
        while position < len(text):
            if self._in_string:
                position, ended = self._string(text, position)
                if ended and self._kind == "string":
                    return position, True
                continue
            found = _STRUCTURE.search(text, position)
            if found is None:
                break
            mark = found[0]
            if self._kind == "plain" and mark in ",]":
                return found.start(), True
            position = found.end()
            if mark == '"':
                self._in_string = True
            elif mark in "{[":
                self._depth += 1
            elif mark in "}]":
                self._depth -= 1
                if self._depth <= 0:
                    return position, True
        return len(text), False

    def _string(self, text: str, position: int) -> tuple[int, bool]:
        """Follow a string to its next escape, its end or that of the text; return where, and whether it is its end."""
        if self._escaped:
            self._escaped = False
            return position + 1, False
        found = _IN_STRING.search(text, position)
        if found is None:
            return len(text), False
        ended = found[0] == '"'
        self._in_string, self._escaped = not ended, not ended
        return found.end(), ended


class _Start:
    """Looks for the beginning of the list."""

    def __init__(self) -> None:
        self._text = ""
        self._thinks: bool | None = None  # None: not known yet
        self._bare: bool | None = None

    def feed(self, text: str) -> str | None:
        """Return what follows the opening bracket, once that has come."""
        kept = self._text = (self._text + text).lstrip() if self._bare is None else self._text + text
        if self._thinks is None:
            if _is_begun(kept, "<think>"):
                return None
            self._thinks = _THOUGHTS.match(kept) is not None
        if self._thinks:
            end = kept.find(_THOUGHT)
            if end < 0:
                self._text = "<think>" + kept[-len(_THOUGHT) :]
                return None
            self._thinks, self._text = False, kept[end + len(_THOUGHT) :]
        return self._list()

    def _list(self) -> str | None:
        text = self._text
        if self._bare is None:
            if bare := _BARE.match(text):
                return text[bare.end() :]
            if not text or (len(text) < 32 and _FENCE.fullmatch(text)):
                return None  # too little to tell
            self._bare = False
        if found := _ENVELOPE.search(text):
            return text[found.end() :]
        maybe = _MAYBE.search(text, max(0, len(text) - 256))
        self._text = text[maybe.start() :] if maybe else ""
        return None


def _is_begun(text: str, tag: str) -> bool:
    """Tell whether more has to come before it is known if the text begins with `tag`."""
    said = text.lstrip()
    return len(said) < len(tag) and tag.startswith(said)


def read(wire: Wire, item: str, place: int) -> Parsed | Complaint:
    """Make a value of one item, exactly as if it stood in the whole list. `wire` is that of the list.

    `place` is the item's, for the complaint. The natural JSON is that of the item alone.
    """
    try:
        values, output = wire.read(f'{{"value":[{item}]}}')
    except Exception as error:  # noqa: BLE001  # a validator of the user's may raise anything; `complain` logs it
        told = parse.complain(wire, item, error).text
        return Complaint(told.replace("value[0]", f"value[{place}]").replace("the answer is not", "it is not", 1))
    found = cast("list[object]", values)
    if len(found) != 1:  # what looked like one item closed the list, and was more than one
        return Complaint(f"- value[{place}] is not one JSON value: {clip(item, 120)}")
    return Parsed(found[0], output[1:-1])
