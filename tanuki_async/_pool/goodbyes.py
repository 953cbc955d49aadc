"""Sorts the frames with which an HTTP/2 server says goodbye out of what it sends. Pure: no await, no I/O.

h2 takes such a frame for the end of everything and reads nothing after it, while it only announces the end: what was
asked before is still answered.
"""

from __future__ import annotations

_HEADER = 9
_GOAWAY = 7
_LARGEST = 2**14


class Goodbyes:
    """Give it all bytes that arrive; it gives back those of the other frames, and keeps what the goodbyes say."""

    __slots__ = ("_held", "_said", "_within")

    def __init__(self) -> None:
        self._held = b""  # the beginning of a header, or of a goodbye
        self._within = 0  # bytes still to come of a frame whose beginning was passed on
        self._said: list[tuple[int, int]] = []

    def take(self) -> list[tuple[int, int]]:
        """What was said since the last time: the number of the last exchange that is answered, and a code for why."""
        said, self._said = self._said, []
        return said

    def sift(self, data: bytes) -> bytes:
        """Return `data` without goodbyes, and without the cut-off beginning of what may be one: that comes later."""
        raw = self._held + data
        passed: list[bytes] = []
        begin, place = 0, self._within
        self._held, self._within = b"", 0
        while place + _HEADER <= len(raw):
            size = int.from_bytes(raw[place : place + 3], "big")
            end = place + _HEADER + size
            if raw[place + 3] == _GOAWAY and size <= _LARGEST:
                passed.append(raw[begin:place])
                if end > len(raw):
                    self._held = raw[place:]
                    return b"".join(passed)
                last = int.from_bytes(raw[place + 9 : place + 13], "big") & 0x7FFFFFFF
                self._said.append((last, int.from_bytes(raw[place + 13 : place + 17], "big")))
                begin = end
            place = end
        if place < len(raw):
            self._held = raw[place:]
            passed.append(raw[begin:place])
        else:
            self._within = place - len(raw)
            passed.append(raw[begin:])
        return b"".join(passed)
