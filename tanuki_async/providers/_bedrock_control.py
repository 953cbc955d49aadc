"""Bedrock's control plane, and the files in S3 that its jobs read and write."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import quote, urlencode

from pydantic_core import from_json

from tanuki_async._errors import ProviderError, ProviderUnreachableError, SettingsError, clip
from tanuki_async._records import Reply
from tanuki_async.abc import Http
from tanuki_async.providers._aws import AwsAccount, Service
from tanuki_async.providers._aws_errors import aws_error
from tanuki_async.providers._chunks import whole_reply
from tanuki_async.providers._json import id_in
from tanuki_async.providers._secrets import secrets_in, without

_URI = re.compile(r"^s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?P<key>(?:/[^/]+)*)/?$")
_PREFIX = "tanuki-"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a job's files are, and the role with which Bedrock reads and writes them."""

    bucket: str
    role: str

    @classmethod
    def of(cls, bucket: str | None, role: str | None, *, to: str) -> Place:
        """Check what the user gave. SettingsError says what is missing `to` do what was asked."""
        if bucket is None or role is None:
            raise SettingsError(
                f"{to} on Bedrock needs a place for its files and a role that may use it: pass "
                "Bedrock(tuning_bucket='s3://bucket/prefix', tuning_role='arn:aws:iam::…:role/…')"
            )
        if not _URI.match(bucket):
            raise SettingsError(f"tuning_bucket looks like 's3://bucket/prefix', not {clip(bucket)!r}")
        if not role.startswith("arn:"):
            raise SettingsError(f"tuning_role looks like 'arn:aws:iam::…:role/…', not {clip(role)!r}")
        return cls(bucket.rstrip("/"), role)

    def folder(self, name: str) -> str:
        """The URI of one job's files, without a slash at its end."""
        return f"{self.bucket}/{name}"


def job_name(tag: str) -> str:
    """Write a tag as a name that every kind of resource may have: no two hyphens in a row, none at the end."""
    return _PREFIX + re.sub("-+", "-", tag).strip("-")


def tag_of(name: object) -> str | None:
    """Read the tag of a job that was started here; None for the jobs of others."""
    return name.removeprefix(_PREFIX) if isinstance(name, str) and name.startswith(_PREFIX) else None


class Control:
    """Makes single calls. Whatever is not a success is raised as a ProviderError of the provider `name`."""

    def __init__(self, account: AwsAccount, name: str) -> None:
        self._account, self._name = account, name
        self._secrets: tuple[str, ...] = ()  # of the latest request

    async def get(self, http: Http, path: str, **query: str | int) -> dict[str, Any]:
        """Ask for something. `path` is percent-encoded."""
        return await self._call(http, "GET", path, b"", urlencode(query, quote_via=quote))

    async def post(self, http: Http, path: str, fields: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Ask for something to be done."""
        return await self._call(http, "POST", path, json.dumps(fields or {}).encode(), "")

    def id_in(self, found: Mapping[str, Any]) -> str:
        """Return the ARN of a job. ProviderUnavailableError where it has none."""
        return id_in(found, "jobArn", provider=self._name, secrets=self._secrets)

    async def put(self, http: Http, uri: str, body: bytes) -> None:
        """Write one file to S3."""
        await self._send(http, "PUT", "s3", _path(uri), body, "")

    async def lines(self, http: Http, uri: str) -> AsyncGenerator[bytes]:
        """Yield the lines of one file in S3 as they come."""
        url, headers = await self._account.request("GET", "s3", _path(uri))
        rest = b""
        try:
            async with http.stream("GET", url, headers=headers) as answer:
                if answer.status != 200:
                    raise self._error(await whole_reply(answer), secrets_in(headers))
                async for piece in answer.pieces:
                    *whole, rest = (rest + piece).split(b"\n")
                    for line in whole:
                        yield line
        except ProviderUnreachableError as cut:
            raise ProviderUnreachableError(cut.message, self._name) from cut
        if rest:
            yield rest

    async def _call(self, http: Http, method: str, path: str, body: bytes, query: str) -> dict[str, Any]:
        reply = await self._send(http, method, "bedrock", path, body, query)
        try:
            value: Any = from_json(reply.body or b"{}")
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise self._error(Reply(status=502, headers=reply.headers, body=reply.body), self._secrets)
        return cast("dict[str, Any]", value)

    async def _send(self, http: Http, method: str, service: Service, path: str, body: bytes, query: str) -> Reply:
        url, headers = await self._account.request(method, service, path, body, query=query)
        self._secrets = secrets_in(headers)
        try:
            reply = await http.send(method, url, headers=headers, body=body if method != "GET" else None)
        except ProviderUnreachableError as error:
            raise ProviderUnreachableError(error.message, self._name) from error
        if not 200 <= reply.status < 300:
            raise self._error(reply, secrets_in(headers))
        return reply

    def _error(self, reply: Reply, secrets: Sequence[str]) -> ProviderError:
        return aws_error(without(reply, secrets), provider=self._name, model="")


def _path(uri: str) -> str:
    return "/" + quote(uri.removeprefix("s3://"), safe="/-_.~")
