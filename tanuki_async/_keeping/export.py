"""Recorded examples as training files of a provider, in the words of live prompts, a batch at a time."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from tanuki_async._codec.describe import FunctionSpec
from tanuki_async._codec.prompt import training_line
from tanuki_async._errors import StorageError, UsageError
from tanuki_async._keeping.compact import input_of, superseded
from tanuki_async._lines import decode_line
from tanuki_async._record import dataset
from tanuki_async._records import Example
from tanuki_async.abc import Storage
from tanuki_async.providers._bedrock_tuning import converted

__all__ = ["FORMATS", "Exported", "Format", "export"]

Format = Literal["openai", "together", "bedrock", "jsonl"]


@dataclass(frozen=True, slots=True)
class Exported:
    """One example on its way to a file; `text` is None where it has no training line."""

    text: bytes | None
    validation: bool = False


async def export(
    storage: Storage, spec: FunctionSpec, *, form: Format, validation: float = 0.0
) -> AsyncIterator[list[Exported]]:
    """Yield the training lines of a function, aligned ones first, one for each input: what is aligned wins, then what
    came last. About the share `validation` of the inputs is for validation, always the same ones.
    """
    if spec.wire is None:
        raise UsageError(f"{spec.name}() embeds its input; it has no training lines")
    aligned: set[bytes] = set()
    for each in (dataset.SYMBOLIC_ALIGNMENTS, dataset.PATCHES):
        name = dataset.name_of(spec.hash, each)
        later = await superseded(storage, name, input_of)
        async for lines in storage.scan(name):
            kept: list[tuple[bytes, bytes]] = []
            for line in lines:
                key = input_of(line)
                if later[key] > 0:
                    later[key] -= 1
                elif key not in aligned:
                    kept.append((key, line))
            if each == dataset.SYMBOLIC_ALIGNMENTS:
                aligned.update(key for key, _ in kept)
            yield await asyncio.to_thread(_rendered, spec, kept, form, validation)


def _rendered(spec: FunctionSpec, lines: list[tuple[bytes, bytes]], form: Format, validation: float) -> list[Exported]:
    return [Exported(_text(spec, line, form), _share(key) < validation) for key, line in lines]


def _text(spec: FunctionSpec, line: bytes, form: Format) -> bytes | None:
    try:
        return FORMATS[form](spec, decode_line(line))
    except StorageError:
        return None


def _share(key: bytes) -> float:
    """Draw a number between 0 and 1 that depends on the input alone."""
    return int.from_bytes(hashlib.blake2b(key, digest_size=4).digest()) / 2**32


def _plain(spec: FunctionSpec, example: Example) -> bytes:
    document = {"inputs": spec.inputs_of(example.args, example.kwargs), "output": example.output}
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


def _bedrock(spec: FunctionSpec, example: Example) -> bytes | None:
    line = None if spec.media else training_line(spec, example)  # its form for images is another one
    return None if line is None else converted([line]).strip()


FORMATS: Mapping[Format, Callable[[FunctionSpec, Example], bytes | None]] = {
    "openai": training_line,
    "together": training_line,
    "bedrock": _bedrock,
    "jsonl": _plain,
}
