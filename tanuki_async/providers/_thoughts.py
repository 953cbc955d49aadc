"""Cuts off what a model thought aloud before it answered: `<think>…</think>` at the beginning of a text."""

from __future__ import annotations

OPEN, CLOSE = "<think>", "</think>"


def spoken(text: str) -> str:
    """Return a whole text without the thoughts before it; nothing where it ends among them."""
    if OPEN not in text or not text.lstrip().startswith(OPEN):
        return text
    return text.partition(CLOSE)[2].lstrip()


class Thoughts:
    """The same for a text on its way: feed it the pieces, it gives on what is spoken."""

    __slots__ = ("_held", "feed")

    def __init__(self) -> None:
        self._held = ""
        self.feed = self._begin
        """Takes the next piece; returns what of it, and of what was held back, is no thought."""

    def _begin(self, piece: str) -> str:
        self._held += piece
        start = self._held.lstrip()
        if start.startswith(OPEN):
            self._held, self.feed = "", self._think
            return self.feed(start[len(OPEN) :])
        if OPEN.startswith(start):  # it may become one
            return ""
        self.feed = _as_it_is
        return self._held

    def _think(self, piece: str) -> str:
        thought, end, said = (self._held + piece).partition(CLOSE)
        if not end:
            self._held = thought[1 - len(CLOSE) :]
            return ""
        self.feed = self._breathe
        return self.feed(said)

    def _breathe(self, piece: str) -> str:
        if said := piece.lstrip():
            self.feed = _as_it_is
        return said


def _as_it_is(piece: str) -> str:
    return piece
