"""What a model made of the texts that pairs name, kept in storage, so that learning again asks for new ones only."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import functools
import logging
import re
import sys
from array import array
from collections.abc import Mapping, Sequence

from tanuki_async._batcher import Vector
from tanuki_async._clock import timestamp
from tanuki_async._codec.describe import FunctionSpec
from tanuki_async._desk import Desk
from tanuki_async._distill.state import Task
from tanuki_async._embed import base_vector, text_of
from tanuki_async._errors import PromptTooLongError, RequestRejectedError, StorageError
from tanuki_async._lines import compact, decode_line, encode_line
from tanuki_async._records import JsonValue
from tanuki_async.abc import Storage

logger = logging.getLogger("tanuki_async.distill")

DATASET = "VECTORS"
"""Under a function's hash: a text and its vector per line."""
PAIRS = 64
"""Pairs that are learnt from first: written by hand, they are fewer than recorded calls."""
VERSION = 1
"""Of what is embedded for a call's arguments: an adapter that was trained on another is not used."""


def of_pairs(task: Task, desk: Desk, storage: Storage) -> Task:
    """Return the task of learning an adapter from a function's pairs. It belongs to one model and length of vectors."""

    def inputs_of(args: Sequence[JsonValue], _: Mapping[str, JsonValue]) -> Mapping[str, JsonValue]:
        return pair_texts(desk.spec, args)

    return dataclasses.replace(
        task,
        inputs_of=inputs_of,
        distill_after=min(task.distill_after, PAIRS),
        template_version=VERSION,
        embed=functools.partial(vectors_of, storage, desk),
        variant=variant(desk),
    )


def variant(desk: Desk) -> str:
    """Name the model and the length of its vectors, as a part of a storage key."""
    model = desk.teachers[0].model
    name = re.sub(r"[^A-Za-z0-9._]+", "_", str(model))
    return f"{name}-{model.shorten_to}" if model.shorten_to else name


def pair_texts(spec: FunctionSpec, sides: Sequence[JsonValue]) -> Mapping[str, JsonValue]:
    """Return what is embedded for each side of a recorded pair."""
    return {name: _side_text(spec, side) for name, side in zip(("left", "right"), sides, strict=True)}


def _side_text(spec: FunctionSpec, side: JsonValue) -> str:
    if not isinstance(side, list) or not side or not isinstance(kwargs := side[-1], dict):
        raise StorageError(f"{spec.name}: a recorded pair has a side that is no call: {str(side)[:80]!r}")
    return text_of(spec.inputs_of(side[:-1], kwargs), lambda: spec.text_of(side[:-1], kwargs))


async def vectors_of(storage: Storage, desk: Desk, texts: Sequence[str]) -> Mapping[str, Vector]:
    """Return the model's own vectors, from storage where they are there; what has to be asked for goes there too.

    A text that the model does not take is left out. Any other error is raised after what was answered is kept.
    """
    kept = await _kept(storage, desk)
    missing = [text for text in texts if text and text not in kept]
    asked = await asyncio.gather(*[_ask(desk, text) for text in missing], return_exceptions=True)
    new = {text: vector for text, vector in zip(missing, asked, strict=True) if not isinstance(vector, BaseException)}
    if new:
        await storage.append(_name(desk), await asyncio.to_thread(_encode, desk, new))
    refused = [each for each in asked if isinstance(each, BaseException)]
    for error in refused:
        if not isinstance(error, (RequestRejectedError, PromptTooLongError)):
            raise error
    if refused:
        logger.warning("%s: %d texts of pairs are left out: %s", desk.spec.name, len(refused), refused[0])
    return {**kept, **new}


async def _ask(desk: Desk, text: str) -> Vector:
    async with asyncio.timeout(desk.options.timeout):
        return await base_vector(desk, text)


def _name(desk: Desk) -> str:
    return f"{desk.spec.hash}/{DATASET}-{variant(desk)}"


async def _kept(storage: Storage, desk: Desk) -> dict[str, Vector]:
    kept: dict[str, Vector] = {}
    async for lines in storage.scan(_name(desk)):
        kept.update(await asyncio.to_thread(_decode, lines))
    return kept


def _encode(desk: Desk, vectors: Mapping[str, Vector]) -> list[bytes]:
    model, at = str(desk.teachers[0].model), timestamp(desk.clock.now())
    return [
        encode_line(
            args=compact([text]),
            kwargs=b"{}",
            output=compact(_packed(vector)),
            source="call",
            repaired=False,
            model=model,
            at=at,
        )
        for text, vector in vectors.items()
    ]


def _decode(lines: Sequence[bytes]) -> dict[str, Vector]:
    found: dict[str, Vector] = {}
    for line in lines:
        try:
            example = decode_line(line)
            found[str(example.args[0])] = _unpacked(str(example.output))
        except (StorageError, ValueError, IndexError) as error:  # it is asked for again
            logger.warning("a vector in storage is left out: %s", error)
    return found


def _packed(vector: Vector) -> str:
    numbers = array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return base64.b64encode(numbers.tobytes()).decode("ascii")


def _unpacked(text: str) -> Vector:
    numbers = array("f", base64.b64decode(text, validate=True))
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers
