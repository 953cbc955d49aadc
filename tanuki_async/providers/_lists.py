"""Which models a server says that it has, and what that explains."""

from __future__ import annotations

import difflib
from typing import Any, cast

from pydantic_core import from_json

from tanuki_async._errors import ProviderError, RequestRejectedError
from tanuki_async._records import Reply

SHOWN = 8


def model_names(reply: Reply) -> list[str]:
    """Read the answer to `GET /models`; an empty list where it holds none."""
    try:
        body: Any = from_json(reply.body)
    except ValueError:
        return []
    if isinstance(body, dict):
        fields = cast("dict[str, Any]", body)
        items: object = fields.get("data") or fields.get("models")
    else:
        items = body
    if not isinstance(items, list):
        return []
    rows = [cast("dict[str, Any]", item) for item in cast("list[object]", items) if isinstance(item, dict)]
    names = [row.get("id") or row.get("name") for row in rows]
    return [name for name in names if isinstance(name, str)]


def about_a_model(error: ProviderError) -> bool:
    """Tell a model that is not there from an address where nothing is."""
    code = error.code if isinstance(error, RequestRejectedError) else None
    return code == "model_not_found" or "model" in error.message.lower()


def what_is_there(wanted: str, there: list[str]) -> str:
    """Name models of a server, those first whose names are near; nothing if that explains nothing."""
    if not there or wanted in there:
        return ""
    near = difflib.get_close_matches(wanted, there, n=3, cutoff=0.3)
    shown = [*near, *(name for name in there if name not in near)][:SHOWN]
    left = f" and {len(there) - len(shown)} more" if len(there) > len(shown) else ""
    return f"the server has: {', '.join(shown)}{left}"


def with_more(error: ProviderError, more: str) -> ProviderError:
    """Return the error with something added to its message."""
    if not more:
        return error
    told = RequestRejectedError(
        f"{error.message}; {more}", error.provider, error.model, error.status, error.request_id, error.retry_after
    )
    told.should_retry = error.should_retry
    if isinstance(error, RequestRejectedError):
        told.code, told.parameter = error.code, error.parameter
    return told
