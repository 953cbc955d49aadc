"""Server-sent events: what a streamed body says, however it is cut into pieces. Pure: no await, no I/O."""

from __future__ import annotations

LARGEST_EVENT = 2**24


class TooLargeError(ValueError):
    """An event never ends."""


class Events:
    """Feed it bytes; it gives the data of each event that they complete.

    Lines end with LF, CR or both; an empty one ends an event; `data:` lines of one event are joined; comments and
    other fields are passed over.
    """

    def __init__(self) -> None:
        self._line: list[bytes] = []  # the parts of one that has not ended yet
        self._size = 0
        self._after_return = False  # a line feed would belong to the carriage return before it
        self._first = True
        self._data: list[bytes] = []

    def feed(self, piece: bytes) -> list[str]:
        """Take the next piece of the body."""
        if not piece:
            return []
        if self._after_return and piece.startswith(b"\n"):
            piece = piece[1:]
        self._after_return = piece.endswith(b"\r")
        found: list[str] = []
        for part in piece.splitlines(keepends=True):  # of bytes: at CR and LF only
            self._line.append(part)
            self._size += len(part)
            if self._size > LARGEST_EVENT:
                raise TooLargeError(f"an event is larger than {LARGEST_EVENT} bytes")
            if part.endswith((b"\n", b"\r")):
                line = b"".join(self._line).rstrip(b"\r\n")
                self._line.clear()
                self._read(line, found)
        return found

    def end(self) -> list[str]:
        """Take the end of the body; some servers forget the last empty line."""
        return self.feed(b"\n") + self.feed(b"\n")

    def _read(self, line: bytes, found: list[str]) -> None:
        if self._first:
            line, self._first = line.removeprefix(b"\xef\xbb\xbf"), False
        if not line:
            if self._data:
                found.append(b"\n".join(self._data).decode(errors="replace"))
                self._data.clear()
            self._size = 0
            return
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" "))
