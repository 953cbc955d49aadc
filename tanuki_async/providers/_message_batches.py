"""Anthropic's Message Batches: many requests answered within a day, at half the price."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any, Literal

from pydantic_core import from_json

from tanuki_async._errors import ProviderError, ProviderUnavailableError, ProviderUnreachableError, RequestRejectedError
from tanuki_async._records import Completion, Job, Reply, Request
from tanuki_async.abc import Batches, Http
from tanuki_async.providers._bodies import quote
from tanuki_async.providers._chunks import whole_reply
from tanuki_async.providers._errors import error_from
from tanuki_async.providers._json import id_in, lines_of, mapping
from tanuki_async.providers._messages import STATUSES, message_from

MOST = 100_000
"""Requests of one batch."""
PAGE = 100
LOOKED_INTO = 100
"""Batches that `find` looks into, the latest first, before it gives up."""

_PATH = "/v1/messages/batches"
_MARK = re.compile(r"^t[0-9a-f]{9}_")
_MARK_LENGTH = 11
_ID = 64
_NAME = "anthropic"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Try:
    """One attempt to send a batch of which we do not know whether it arrived."""

    count: int
    marked: bool
    before: frozenset[str]  # the ids of the batches that were there

    def may_be(self, told: Mapping[str, Any], marks: Mapping[str, str | None]) -> bool:
        """Tell whether a batch may be that one: as many requests, and nobody else's."""
        counts: Mapping[str, int] = told.get("request_counts") or {}
        free = told["id"] not in marks or (marks[told["id"]] is None and not self.marked)
        return free and told["id"] not in self.before and sum(counts.values()) == self.count


class MessageBatches(Batches):
    """Batches of one account.

    This API keeps no tag beside a batch. So the tag's mark stands before each key in the ids of the requests, which
    can be read again once a batch has ended; keys of more than 53 characters leave no room for it. A batch that is
    still running shows only how many requests it has: `find` then takes the one that appeared since this object tried
    to send a batch of that tag with as many requests, as after a timeout; `results` checks the mark. What another
    process has sent is found when it has ended, unless 100 others followed it.
    """

    def __init__(
        self,
        *,
        address: Callable[[str], tuple[str, Mapping[str, str]]],
        body: Callable[[Request], bytes],
        failure: Callable[[Reply], ProviderError],
        secrets: Callable[[], tuple[str, ...]],
    ) -> None:
        self._address, self._encode, self._failure, self._secrets = address, body, failure, secrets
        self._marks: dict[str, str | None] = {}  # of batches by id; None: it has none
        self._tries: dict[str, _Try] = {}  # by mark

    async def submit(self, requests: Mapping[str, Request], *, tag: str, http: Http) -> Job:
        """Send requests, unless a batch with this tag is there."""
        if not 0 < len(requests) <= MOST:
            raise RequestRejectedError(f"a batch has 1 to {MOST:,} requests, not {len(requests):,}", _NAME)
        mark, marked = mark_of(tag), max(map(len, requests)) <= _ID - _MARK_LENGTH
        listed = [told async for told in self._listed(http)]
        if found := await self._find(mark, listed, http):
            return self._job(found, tag)
        body = self._body(requests, mark if marked else "")
        before = frozenset[str](told["id"] for told in listed)
        self._tries[mark] = _Try(count=len(requests), marked=marked, before=before)
        try:
            told = await self._exchange("POST", _PATH, http, body)
        except (ProviderUnreachableError, ProviderUnavailableError):
            raise  # it may have arrived
        except ProviderError:
            del self._tries[mark]
            raise
        job = self._job(told, tag)
        self._marks[job.id] = mark
        return job

    async def get(self, id: str, http: Http) -> Job:  # noqa: A002
        """Return a batch as it stands."""
        return self._job(await self._exchange("GET", f"{_PATH}/{id}", http))

    async def cancel(self, id: str, http: Http) -> Job:  # noqa: A002
        """Ask for a batch to end; what was answered until then is kept."""
        return self._job(await self._exchange("POST", f"{_PATH}/{id}/cancel", http))

    async def find(self, tag: str, http: Http) -> Job | None:
        """Look for the latest batch with this tag, as far as that can be told."""
        found = await self._find(mark_of(tag), [told async for told in self._listed(http)], http)
        return self._job(found, tag) if found else None

    async def results(self, job: Job, http: Http) -> AsyncGenerator[tuple[str, Completion | ProviderError]]:
        """Yield what became of each request that was asked. RequestRejectedError for the batch of another tag."""
        mark = mark_of(job.tag) if job.tag else None
        async with aclosing(self._result_lines(job.id, http)) as lines:
            async for line in lines:
                marked = _MARK.match(line["custom_id"])
                if mark and marked and marked[0] != mark:
                    self._marks[job.id] = marked[0]
                    raise RequestRejectedError(f"{job.id} is not the batch {job.tag!r}; look for it again", _NAME)
                outcome = self._outcome(mapping(line.get("result")))
                if outcome is not None:
                    yield line["custom_id"][len(marked[0]) if marked else 0 :], outcome

    def _body(self, requests: Mapping[str, Request], mark: str) -> bytes:
        parts: list[bytes] = []
        for key, request in requests.items():
            parts += (b',{"custom_id":', quote(mark + key), b',"params":', self._encode(request), b"}")
        return b'{"requests":[' + b"".join(parts)[1:] + b"]}"

    async def _find(self, mark: str, listed: list[dict[str, Any]], http: Http) -> dict[str, Any] | None:
        """Look through batches, the latest first, for one that we know, that says so, or that came since we tried."""
        for told in listed:
            if told["id"] not in self._marks and told.get("processing_status") == "ended":
                self._marks[told["id"]] = await self._mark(told["id"], http)
            if self._marks.get(told["id"]) == mark:
                return told
        tried = self._tries.get(mark)
        candidates = [told for told in listed if tried and tried.may_be(told, self._marks)]
        if not candidates:
            return None
        self._marks[candidates[-1]["id"]] = mark  # the oldest; were it another's, `results` would say so
        return candidates[-1]

    async def _listed(self, http: Http) -> AsyncIterator[dict[str, Any]]:
        """List batches, the latest first."""
        after, left = "", LOOKED_INTO
        while True:
            page = await self._exchange("GET", f"{_PATH}?limit={PAGE}{after}", http)
            for told in map(mapping, page.get("data") or ()):
                if isinstance(told.get("id"), str):
                    yield told
                left -= 1
                if not left:
                    return
            if not page.get("has_more") or not page.get("last_id"):
                return
            after = f"&after_id={page['last_id']}"

    async def _mark(self, id: str, http: Http) -> str | None:  # noqa: A002
        """Read the mark of a batch that has ended, from the first of its results."""
        with suppress(RequestRejectedError):  # 404: results are kept for 29 days
            async with aclosing(self._result_lines(id, http)) as lines:
                async for line in lines:
                    found = _MARK.match(line["custom_id"])
                    return found[0] if found else None
        return None

    async def _result_lines(self, id: str, http: Http) -> AsyncGenerator[dict[str, Any]]:  # noqa: A002
        """Read results line by line. From our own base URL: a key goes nowhere that an answer names."""
        url, headers = self._address(f"{_PATH}/{id}/results")
        try:
            async with http.stream("GET", url, headers=headers) as answer:
                if answer.status != 200:
                    raise self._failure(await whole_reply(answer))
                async for line in lines_of(answer.pieces):
                    yield self._read(line)
        except ProviderUnreachableError as cut:
            raise ProviderUnreachableError(cut.message, _NAME) from cut

    def _read(self, line: bytes) -> dict[str, Any]:
        with suppress(ValueError):
            value = mapping(from_json(line))
            if isinstance(value.get("custom_id"), str):
                return value
        raise ProviderUnavailableError("a line of the results of a batch cannot be read", _NAME)

    def _outcome(self, result: Mapping[str, Any]) -> Completion | ProviderError | None:
        """Read one result; None for what was not asked, because the batch was cancelled or its day was over."""
        if result.get("type") == "succeeded":
            reply = Reply(status=200, headers={}, body=json.dumps(result.get("message")).encode())
            try:
                return message_from(reply, provider=_NAME, model="")
            except ProviderError as error:
                return error
        if result.get("type") == "errored":
            told = mapping(result.get("error"))
            status = STATUSES.get(str(mapping(told.get("error")).get("type")), 500)
            headers = {"request-id": str(told.get("request_id") or "")}
            reply = Reply(status=status, headers=headers, body=json.dumps(told).encode())
            return error_from(reply, provider=_NAME, model="")
        return None

    async def _exchange(self, method: str, path: str, http: Http, body: bytes | None = None) -> dict[str, Any]:
        url, headers = self._address(path)
        try:
            reply = await http.send(method, url, headers=headers, body=body)
        except ProviderUnreachableError as error:
            raise ProviderUnreachableError(error.message, _NAME) from error
        if reply.status == 200:
            with suppress(ValueError):
                return mapping(from_json(reply.body))
        raise self._failure(reply)

    def _job(self, told: Mapping[str, Any], tag: str | None = None) -> Job:
        status: Literal["running", "succeeded", "cancelled"] = "running"
        if told.get("processing_status") == "ended":
            status = "cancelled" if told.get("cancel_initiated_at") else "succeeded"
        return Job(
            id=id_in(told, provider=_NAME, secrets=self._secrets()),
            status=status,
            told=str(told.get("processing_status")),
            tag=tag,
            output=told.get("results_url"),
        )


def mark_of(tag: str) -> str:
    """What stands before the keys of all requests of a batch."""
    return f"t{hashlib.sha256(tag.encode()).hexdigest()[:9]}_"
