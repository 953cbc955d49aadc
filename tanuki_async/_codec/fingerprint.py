"""The identity of a function: a hash of its name, docstring, parameters and types as the user wrote them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tanuki_async._codec.hints import Namespace
from tanuki_async._codec.render import Renderer, value_text

_VERSION = 1
"""Part of every hash: raised only when all hashes shall change."""

_STARS = {"var_positional": "*", "var_keyword": "**"}
_NOTHING = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """One parameter as its stub wrote it."""

    name: str
    kind: str
    annotation: Any
    default: Any = _NOTHING

    @property
    def has_default(self) -> bool:
        """Whether a caller may leave it out."""
        return self.default is not _NOTHING


def signature_text(name: str, parameters: Sequence[Written], output: Any, renderer: Renderer) -> str:
    """Write `def name(…) -> …`, without self and cls."""
    texts: list[str] = []
    kinds = [parameter.kind for parameter in parameters]
    for place, parameter in enumerate(parameters):
        if parameter.kind == "keyword_only" and not {"keyword_only", "var_positional"} & set(kinds[:place]):
            texts.append("*")
        texts.append(_parameter_text(parameter, renderer))
        if parameter.kind == "positional_only" and kinds[place + 1 : place + 2] != ["positional_only"]:
            texts.append("/")
    return f"def {name}({', '.join(texts)}) -> {renderer.text(output)}"


def _parameter_text(parameter: Written, renderer: Renderer) -> str:
    default = f" = {value_text(parameter.default)}" if parameter.has_default else ""
    return f"{_STARS.get(parameter.kind, '')}{parameter.name}: {renderer.text(parameter.annotation)}{default}"


def fingerprint(name: str, doc: str, parameters: Sequence[Written], output: Any, namespace: Namespace) -> str:
    """Return 32 hex digits that only another name, docstring, parameter or type changes.

    BLAKE2b (RFC 7693) with a digest of 128 bits: the same on every platform, without a seed, in the standard library,
    and nobody finds two functions with one hash.
    """
    renderer = Renderer(namespace, canonical=True)
    signature = signature_text(name, parameters, output, renderer)
    text = json.dumps([_VERSION, name, doc, signature, renderer.definitions()])
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
