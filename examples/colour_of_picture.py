"""Ask about a picture that is drawn here, without a file. Needs OPENAI_API_KEY: `python colour_of_picture.py`."""

import asyncio
import struct
import zlib
from typing import Literal

import tanuki_async as tanuki

Colour = Literal["red", "green", "blue"]
SIZE = 64


@tanuki.patch
async def main_colour(picture: tanuki.Image) -> Colour:
    """Name the colour that most of the picture has."""
    ...


def drawn(red: int, green: int, blue: int) -> tanuki.Image:
    """Draw a PNG of one colour."""
    header = struct.pack(">IIBBBBB", SIZE, SIZE, 8, 2, 0, 0, 0)
    lines = (b"\0" + bytes((red, green, blue)) * SIZE) * SIZE
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    return tanuki.Image(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, data) for kind, data in chunks))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@tanuki.align
async def align_main_colour() -> None:
    assert await main_colour(drawn(250, 20, 30)) == "red"


async def main() -> None:
    await align_main_colour()
    pictures = [drawn(200, 0, 0), drawn(0, 180, 40), drawn(10, 10, 220)]
    async for colour in tanuki.amap(main_colour, pictures):
        print(colour)


if __name__ == "__main__":
    asyncio.run(main())
