"""What is in pydantic's own schema of a type."""

from __future__ import annotations

from typing import Any

from tanuki_async._codec.shapes import is_object


def parts(core: Any) -> list[dict[str, Any]]:
    """List every dict in a core schema, whatever it is for."""
    found: list[dict[str, Any]] = []
    todo: list[Any] = [core]
    while todo:
        part = todo.pop()
        if is_object(part):
            found.append(part)
            todo += [value for key, value in found[-1].items() if key not in {"metadata", "default"}]
        elif isinstance(part, list | tuple):
            todo += part
    return found


def kinds_in(core: Any) -> set[str]:
    """Name the kinds of schema in a core schema."""
    return {kind for part in parts(core) if isinstance(kind := part.get("type"), str)}
