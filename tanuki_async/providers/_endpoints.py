"""What jobs need of a provider's account: JSON, lists in pages, files up and down."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlencode

from tanuki_async._errors import (
    ProviderError,
    ProviderUnavailableError,
    ProviderUnreachableError,
    RequestRejectedError,
)
from tanuki_async._records import JsonValue, Reply
from tanuki_async.abc import Http
from tanuki_async.providers._chunks import whole_reply
from tanuki_async.providers._errors import code_of, error_from, readable
from tanuki_async.providers._json import id_in, lines_of, mapping
from tanuki_async.providers._secrets import Headers, without

Object = dict[str, Any]

TRAINING_CLOSED = "training_not_available"
ANSWER_SECONDS = 60.0
FILE_SECONDS = 600.0
PAGE, PAGES = 100, 50


@dataclass(frozen=True, slots=True)
class Endpoints:
    """One account, as its provider knows it. Errors are ProviderErrors; no retry, but a deadline for each exchange."""

    name: str
    base: Callable[[], str]
    headers: Callable[[], Headers]
    secrets: Callable[[], tuple[str, ...]]

    def url(self, path: str, query: Mapping[str, str] | None = None) -> str:
        """Write the address of a path. A base URL may have a query of its own."""
        start, _, told = self.base().partition("?")
        asked = "&".join(part for part in (told, urlencode(query or {})) if part)
        return start.rstrip("/") + path + (f"?{asked}" if asked else "")

    def error(self, reply: Reply, model: str = "") -> ProviderError:
        """Make an error of an unhappy answer."""
        error = error_from(reply, provider=self.name, model=model, secrets=self.secrets())
        if (code := code_of(reply)) != TRAINING_CLOSED:
            return error
        closed = RequestRejectedError(error.message, self.name, model, error.status, error.request_id)
        closed.code = code
        return closed

    async def get(self, path: str, http: Http, query: Mapping[str, str] | None = None) -> Object:
        """Read one object."""
        return self.read(await self.send("GET", self.url(path, query), self.headers(), None, http))

    async def post(self, path: str, value: JsonValue, http: Http) -> Object:
        """Send JSON, or nothing, and read what comes back."""
        body = b"" if value is None else json.dumps(value, separators=(",", ":")).encode()
        return self.read(await self.send("POST", self.url(path), self.headers(), body, http))

    async def listed(self, path: str, http: Http, query: Mapping[str, str] | None = None) -> list[Object]:
        """Read a list, all its pages."""
        found: list[Object] = []
        asked = {"limit": str(PAGE), **(query or {})}
        for _ in range(PAGES):
            reply = await self.send("GET", self.url(path, asked), self.headers(), None, http)
            page = Object() if reply.body.lstrip()[:1] == b"[" else self.read(reply)
            items = self._objects(page.get("data") or [] if page else self._array(reply))
            found += items
            if not page.get("has_more") or not items:
                break
            asked["after"] = str(items[-1].get("id"))
        return found

    async def upload(self, name: str, content: bytes, http: Http, **fields: str) -> Object:
        """Send a file as multipart/form-data, beside the form's `fields`."""
        kind, body = multipart(fields, name, content)
        headers = Headers({**self.headers(), "content-type": kind})
        return self.read(await self.send("POST", self.url("/files"), headers, body, http, FILE_SECONDS))

    async def lines(self, path: str, http: Http) -> AsyncIterator[Object]:
        """Read a file of JSON objects, one per line, as it comes."""
        try:
            async with (
                asyncio.timeout(FILE_SECONDS),
                http.stream("GET", self.url(path), headers=self.headers()) as answer,
            ):
                if answer.status != 200:
                    raise self.error(await whole_reply(answer))
                async for line in lines_of(answer.pieces):
                    yield self._object(line)
        except (ProviderUnreachableError, TimeoutError) as error:
            raise self._unreachable(error, FILE_SECONDS) from error

    async def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None,
        http: Http,
        seconds: float = ANSWER_SECONDS,
    ) -> Reply:
        """Exchange one request for one answer, whatever its status."""
        try:
            async with asyncio.timeout(seconds):
                return await http.send(method, url, headers=headers, body=body)
        except (ProviderUnreachableError, TimeoutError) as error:
            raise self._unreachable(error, seconds) from error

    def read(self, reply: Reply) -> Object:
        """Read the JSON object of a happy answer."""
        if not 200 <= reply.status < 300:
            raise self.error(reply)
        return self._object(reply.body)

    def id_in(self, found: Object) -> str:
        """Return the id of a job or file. ProviderUnavailableError where it has none."""
        return id_in(found, provider=self.name, secrets=self.secrets())

    def _objects(self, items: object) -> list[Object]:
        """Return a list of objects. What is no such list may hide a job that is there, so it counts as no answer."""
        found = cast("list[object]", items) if isinstance(items, list) else [None]
        if not all(isinstance(each, dict) for each in found):
            raise ProviderUnavailableError("success, but not with a list of objects", self.name, "", 200)
        return cast("list[Object]", found)

    def _array(self, reply: Reply) -> object:
        """Read a list that stands by itself."""
        if reply.status != 200:
            raise self.error(reply)
        try:
            return json.loads(reply.body)
        except ValueError as error:
            raise ProviderUnavailableError("success, but not with JSON", self.name, "", 200) from error

    def read_any(self, reply: Reply) -> Object:
        """Read the JSON object of any answer; where it is none, its error is raised."""
        try:
            return self._object(reply.body)
        except ProviderUnavailableError as error:
            raise self.error(reply) from error

    def _object(self, text: bytes) -> Object:
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        if isinstance(found, dict):
            return cast("Object", found)
        shown = readable(without(Reply(status=200, headers={}, body=text), self.secrets()).body)
        raise ProviderUnavailableError(f"success, but not with a JSON object: {shown}", self.name, "", 200)

    def _unreachable(self, error: Exception, seconds: float) -> ProviderUnreachableError:
        told = error.message if isinstance(error, ProviderError) else f"no answer within {seconds:g} s"
        return ProviderUnreachableError(told, self.name)


def part(found: Object, name: str) -> Object:
    """Return an object inside another; an empty one where there is none."""
    return mapping(found.get(name))


def multipart(fields: Mapping[str, str], name: str, content: bytes) -> tuple[str, bytes]:
    """Write a form with one file, `file`; return the content type and the body."""
    boundary = f"tanuki-{secrets.token_hex(16)}"
    parts = [
        f'--{boundary}\r\ncontent-disposition: form-data; name="{field}"\r\n\r\n{value}\r\n'.encode()
        for field, value in fields.items()
    ]
    parts.append(
        f'--{boundary}\r\ncontent-disposition: form-data; name="file"; filename="{name}"\r\n'
        "content-type: application/jsonl\r\n\r\n".encode()
    )
    parts += (content, f"\r\n--{boundary}--\r\n".encode())
    return f"multipart/form-data; boundary={boundary}", b"".join(parts)
