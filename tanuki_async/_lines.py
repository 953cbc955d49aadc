"""One example as one line of JSON: written, read, and recognised when seen again.

The first keys of a line are always `v`, `args`, `kwargs`, `output`, then `source`: what lies between is what
makes an example distinct, so its key is a hash of those bytes and no JSON is parsed to find it.
"""

from __future__ import annotations

import json
from typing import Any

import mmh3
from pydantic_core import to_json

from tanuki_async._errors import StorageError, clip
from tanuki_async._records import Example

VERSION = 1
_HEAD = b'{"v":1,"args":'
_TAIL = b',"source":"'
_OUTPUT = b',"output":'


def encode_line(
    *,
    args: bytes,
    kwargs: bytes,
    output: bytes,
    source: str,
    repaired: bool,
    model: str | None,
    at: str,
    redacted: bool = False,
) -> bytes:
    """Write one record from parts that are compact JSON already. No line break at the end."""
    return b"".join(
        (
            _HEAD,
            args,
            b',"kwargs":',
            kwargs,
            _OUTPUT,
            output,
            _TAIL,
            source.encode(),
            b'","repaired":true,"model":' if repaired else b'","repaired":false,"model":',
            b"null" if model is None else compact(model),
            b',"at":"',
            at.encode(),
            b'","redacted":true}' if redacted else b'"}',
        )
    )


def encode_example(example: Example) -> bytes:
    """Write one record. No line break at the end."""
    return encode_line(
        args=compact(list(example.args)),
        kwargs=compact(dict(example.kwargs)),
        output=compact(example.output),
        source=example.source,
        repaired=example.repaired,
        model=example.model,
        at=example.at,
        redacted=example.redacted,
    )


def decode_line(line: bytes) -> Example:
    """Read one record; StorageError where the line is torn, foreign, or from a newer version."""
    try:
        record: Any = json.loads(line)
        version = record["v"]
        if version != VERSION:
            raise StorageError(
                f"a record has version {version!r}, this release reads {VERSION}: install a newer tanuki_async"
            )
        return Example(
            args=tuple(record["args"]),
            kwargs=record["kwargs"],
            output=record["output"],
            source=record["source"],
            repaired=record["repaired"],
            model=record["model"],
            at=record["at"],
            redacted=record.get("redacted", False),
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise StorageError(f"not a record: {clip(line.decode(errors='replace'), 80)!r} ({error!r})") from error


def example_key(line: bytes) -> bytes:
    """Return 16 bytes that two lines share only if their arguments and output are the same."""
    if line.startswith(_HEAD) and (end := line.rfind(_TAIL)) > 0:
        return mmh3.mmh3_x64_128_digest(line[len(_HEAD) : end])
    return example_key(encode_example(decode_line(line)))  # written by another hand, with other spaces


def key_of(line: bytes) -> bytes:
    """Return the example's key, or for a line that is no record of ours, a key of the whole line. Never raises."""
    try:
        return example_key(line)
    except (StorageError, ValueError):  # NaN is no JSON
        return mmh3.mmh3_x64_128_digest(line)


def arguments_key(line: bytes) -> bytes:
    """Return 16 bytes that two lines share only if their arguments are the same, whatever they answered."""
    example = decode_line(line)
    return mmh3.mmh3_x64_128_digest(compact(list(example.args)) + b"," + compact(dict(example.kwargs)))


def compact(value: Any) -> bytes:
    """Encode plain JSON the one way that keys rely on, which is pydantic's: no spaces, UTF-8 as it is."""
    return to_json(value)
