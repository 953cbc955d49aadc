"""How many tokens an image or a document costs, roughly, from its first bytes."""

from __future__ import annotations

import re

PIXELS_PER_TOKEN = 750
LEAST, MOST, UNSEEN = 258, 12_000, 2_500
TOKENS_PER_PAGE, BYTES_PER_PAGE = 3_000, 200_000

_PAGE = re.compile(rb"/Type\s*/Page\b")
_FRAME = frozenset((*range(0xC0, 0xD0),)) - {0xC4, 0xC8, 0xCC}  # segments of a JPEG that tell its size
_ALONE = frozenset((0x01, *range(0xD0, 0xD8)))  # segments without a length


def image_tokens(data: bytes | None) -> int:
    """Guess what an image costs: a token for 750 pixels, at least 258, at most 12,000.

    Anthropic documents width x height / 750. OpenAI's current models count patches of 32 x 32 pixels, 1.2 tokens each
    where that was measured, and at most 10,000 of them; Gemini counts 258 for what is small. So this is rather too
    many. An image that cannot be looked at, since it is behind a URL, is taken for one of 1.9 megapixels.
    """
    size = pixels(data) if data is not None else None
    return UNSEEN if size is None else min(max(size[0] * size[1] // PIXELS_PER_TOKEN, LEAST), MOST)


def document_tokens(data: bytes | None) -> int:
    """Guess what a PDF costs: 3,000 tokens a page, which is where Anthropic's 1,500 to 3,000 end.

    Pages are counted where they can be seen; where they are compressed, 200 KB are taken for one.
    """
    if data is None:
        return TOKENS_PER_PAGE
    pages = len(_PAGE.findall(data)) or 1 + len(data) // BYTES_PER_PAGE
    return pages * TOKENS_PER_PAGE


def pixels(data: bytes) -> tuple[int, int] | None:
    """Read width and height of a PNG, GIF, WebP or JPEG; None where they are not found."""
    if data.startswith(b"\x89PNG") and len(data) >= 24:
        return int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
    if data.startswith(b"GIF8") and len(data) >= 10:
        return int.from_bytes(data[6:8], "little"), int.from_bytes(data[8:10], "little")
    if data.startswith(b"RIFF") and len(data) >= 30:
        return _webp(data)
    return _jpeg(data) if data.startswith(b"\xff\xd8") else None


def _webp(data: bytes) -> tuple[int, int] | None:
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF
    return None


def _jpeg(data: bytes) -> tuple[int, int] | None:
    place = 2
    while place + 9 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker in _FRAME:
            return int.from_bytes(data[place + 7 : place + 9]), int.from_bytes(data[place + 5 : place + 7])
        if marker == 0xFF:  # padding
            place += 1
        elif marker in _ALONE:
            place += 2
        else:
            place += 2 + int.from_bytes(data[place + 2 : place + 4])
    return None
