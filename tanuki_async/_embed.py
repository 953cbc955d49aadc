"""The story of one embedding."""

from __future__ import annotations

import asyncio
import math
from array import array
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from tanuki_async import _route
from tanuki_async._batcher import Vector
from tanuki_async._codec import tokens
from tanuki_async._codec.describe import Call
from tanuki_async._desk import Desk
from tanuki_async._dimensions import check_length
from tanuki_async._errors import CallTimeoutError, InputError
from tanuki_async._records import JsonValue
from tanuki_async.students.adapter import Adapter

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray


async def embed(desk: Desk, bound: Call) -> Any:
    """Return the vector of one call's input, within its deadline."""
    text = input_text(desk, bound)
    deadline = desk.deadlines.begin()
    try:
        if not desk.recalled:
            await desk.recall()
        vector = await base_vector(desk, text)
    except BaseException as error:
        late = deadline.close() and isinstance(error, asyncio.CancelledError)
        desk.tally.failed += late or isinstance(error, Exception)
        if late:
            waiting_for = f"an embedding by {desk.teachers[0].model}" if desk.recalled else "storage"
            raise CallTimeoutError(desk.spec.name, waiting_for, desk.options.timeout) from error
        raise
    deadline.close()
    desk.tally.teacher += 1
    adapter = desk.apprentice.student()
    if isinstance(adapter, Adapter) and adapter.dimensions == len(vector):
        moved = adapter.move(as_array(vector))
        return moved if desk.spec.embedding == "numpy" else moved.tolist()
    return as_list(vector) if desk.spec.embedding == "list" else as_array(vector)


def input_text(desk: Desk, bound: Call) -> str:
    """What is embedded of one call. InputError where that is nothing."""
    inputs = bound.inputs()
    text = text_of(inputs, lambda: bound.text)
    if not text:
        raise InputError(desk.spec.name, next(iter(inputs), None), "an empty text has no embedding")
    return text


def text_of(inputs: Mapping[str, JsonValue], all_of_them: Callable[[], str]) -> str:
    """What is embedded: the one string argument as it is, else all arguments as JSON."""
    only = next(iter(inputs.values())) if len(inputs) == 1 else None
    return only if isinstance(only, str) else all_of_them()


async def base_vector(desk: Desk, text: str) -> Vector:
    """Wait for what the model makes of a text, as long as is wanted."""
    size = tokens.estimate(text)
    # One model embeds everything: no other takes over, since vectors of two models cannot be compared.
    first, name = desk.teachers[:1], desk.spec.name
    (teacher,) = _route.fitting(first, size, function=name, largest=lambda: "the arguments", answer=1)
    assert desk.batcher is not None  # only what embeds nothing has none
    assert desk.payer is not None
    vector = await desk.batcher.vector(text, size, desk.payer)
    wanted = teacher.model.shorten_to
    if wanted is None:
        return vector
    check_length(teacher.model, len(vector))
    return vector if len(vector) == wanted else cut(vector, wanted)


def cut(vector: Vector, dimensions: int) -> Vector:
    """Keep the first dimensions, brought to length one."""
    kept = vector[:dimensions]
    length = math.hypot(*kept) or 1.0
    return array("f", [each / length for each in kept])


def as_list(vector: Vector) -> list[float]:
    """Return plain floats."""
    if isinstance(vector, list):
        return vector
    return vector.tolist() if isinstance(vector, array) else list(vector)


def as_array(vector: Vector) -> NDArray[float32]:
    """Return an array of 32-bit floats; a packed vector is not copied."""
    import numpy

    if isinstance(vector, array) and vector.typecode == "f":
        return numpy.frombuffer(vector, dtype=numpy.float32)
    return numpy.asarray(vector, dtype=numpy.float32)
