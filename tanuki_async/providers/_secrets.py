"""Keeps keys out of messages, and out of tracebacks that show variables."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from tanuki_async._records import Reply

_SHORTEST = 4  # less is no secret, and would turn a message into dots
_NAMES = re.compile("auth|key|token|secret|cookie|password")


class Headers(dict[str, str]):
    """Headers that show only their names: crash reporters and `pytest -l` send what variables hold."""

    def __repr__(self) -> str:
        return f"<headers {', '.join(self)}>"


def secrets_in(headers: Mapping[str, str]) -> tuple[str, ...]:
    """What nobody may read, without the word before it (`Bearer`). Names are lower case."""
    words = (value.rpartition(" ")[2] for name, value in headers.items() if _NAMES.search(name))
    return tuple(word for word in words if len(word) >= _SHORTEST)


def without(reply: Reply, secrets: Sequence[str]) -> Reply:
    """Take secrets out of an answer that will be quoted, before it is clipped: half a key is a leak too."""
    body, headers = reply.body, dict(reply.headers)
    for secret in secrets:
        body = body.replace(secret.encode(), "…".encode())
        headers = {name: value.replace(secret, "…") for name, value in headers.items()}
    return replace(reply, body=body, headers=headers)
