"""Reads the content of a message in OpenAI's, Anthropic's or Bedrock's form: its text, and what is attached to it."""

from __future__ import annotations

import base64
from typing import Any, cast

from tanuki_async._records import Attached, Attachment

_KINDS: dict[Attached, str] = {"image": "image", "document": "application"}
"""How the media type of a block in Bedrock's form begins."""


def content_text(content: object) -> str:
    """The text of a message's content, which is a string or a list of parts."""
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in cast("list[dict[str, Any]]", content))
    return content if isinstance(content, str) else ""


def attachments_in(content: object) -> tuple[Attachment, ...]:
    """The images and documents of a message's content, in order."""
    parts = cast("list[dict[str, Any]]", content) if isinstance(content, list) else []
    found: list[Attachment] = []
    for part in parts:
        if part.get("type") == "image_url":
            found.append(_attachment("image", part["image_url"]["url"]))
        elif part.get("type") == "file":
            found.append(_attachment("document", part["file"]["file_data"]))
        elif part.get("type") in ("image", "document"):
            found.append(_from_source(part["type"], part["source"]))
        else:
            found += [_from_block(kind, part[kind]) for kind in _KINDS if part.get(kind)]
    return tuple(found)


def _attachment(kind: Attached, url: str) -> Attachment:
    head, comma, body = url.partition(";base64,")
    if not (comma and head.startswith("data:")):
        return Attachment(kind=kind, media_type=f"{kind}/*", url=url)
    return Attachment(kind=kind, media_type=head.removeprefix("data:"), data=base64.b64decode(body, validate=True))


def _from_source(kind: Attached, source: dict[str, str]) -> Attachment:
    """Read one in Anthropic's form."""
    if source["type"] == "url":
        return Attachment(kind=kind, media_type=f"{kind}/*", url=source["url"])
    data = source["data"]
    decoded = data.encode() if source["type"] == "text" else base64.b64decode(data, validate=True)
    return Attachment(kind=kind, media_type=source["media_type"], data=decoded)


def _from_block(kind: Attached, block: dict[str, Any]) -> Attachment:
    """Read one in Bedrock's form."""
    data = base64.b64decode(block["source"]["bytes"], validate=True)
    return Attachment(kind=kind, media_type=f"{_KINDS[kind]}/{block['format']}", data=data)
