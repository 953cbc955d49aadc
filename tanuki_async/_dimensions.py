"""Vectors of fewer dimensions: which models are asked for them, and whose vectors may be cut."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Literal

from tanuki_async._errors import SettingsError
from tanuki_async._records import Model
from tanuki_async._route import Teacher

_SENT = re.compile(r"(^|/)text-embedding-3-|titan-embed-text-v2")
"""Models that take `dimensions` in a request."""
_CUT = re.compile(
    r"qwen3-embedding|embeddinggemma|mxbai-embed-large|jina-embeddings-v3|snowflake-arctic-embed-(m-v1\.5|[lm]-v2)",
    re.IGNORECASE,
)
"""Matryoshka models: their makers say that the first dimensions, brought to length one, are a vector of their own."""

KNOWN = (
    "text-embedding-3-* and Titan v2 take a number of dimensions; vectors of Qwen3-Embedding, EmbeddingGemma, "
    "mxbai-embed-large, jina-embeddings-v3 and snowflake-arctic-embed (m-v1.5, v2) may be cut"
)


def shortened(teachers: tuple[Teacher, ...], dimensions: int) -> tuple[Teacher, ...]:
    """Return who embeds as one that gives `dimensions`. SettingsError where no such vector can be had of a model."""
    return tuple(Teacher(each.provider, shorter(each.model, dimensions)) for each in teachers)


def shorter(model: Model, dimensions: int) -> Model:
    """Return `model` as one that gives `dimensions`."""
    if dimensions == model.dimensions:
        return model
    if dimensions > (model.dimensions or dimensions):
        raise SettingsError(f"{model} gives vectors of {model.dimensions} dimensions, and {dimensions} were asked for")
    how = model.shortening or _known(model.name)
    if how is None:
        raise SettingsError(
            f"{model} is not known to give vectors of {dimensions} dimensions. {KNOWN}; for another model that was "
            f"trained for it name Model(provider={model.provider!r}, name={model.name!r}, shortening='sent') or 'cut'"
        )
    return replace(model, shortening=how, shorten_to=dimensions)


def _known(name: str) -> Literal["sent", "cut"] | None:
    if _SENT.search(name):
        return "sent"
    return "cut" if _CUT.search(name) else None


def check_length(model: Model, length: int) -> None:
    """SettingsError where a model did not give what `shorten_to` asks for, and it cannot be cut from what it gave."""
    wanted = model.shorten_to
    if wanted is None or length == wanted or (length > wanted and model.shortening == "cut"):
        return
    given = f"{model} gives vectors of {length} dimensions, and {wanted} were asked for"
    if length < wanted:
        raise SettingsError(f"{given}: choose embedding_dimensions up to {length}")
    raise SettingsError(f"{given}: its server does not heed `dimensions`; leave out embedding_dimensions")
