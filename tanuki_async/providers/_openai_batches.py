"""Batches as OpenAI offers them, and servers that copied its endpoints."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, ClassVar

from tanuki_async._errors import ProviderError, UsageError, clip
from tanuki_async._lines import compact
from tanuki_async._records import Completion, Job, JsonValue, Reply, Request
from tanuki_async.abc import Batches, Http
from tanuki_async.providers._answers import completion_from
from tanuki_async.providers._bodies import quote
from tanuki_async.providers._endpoints import Endpoints, Object, part
from tanuki_async.providers._once import TAG, Dated, latest, start_once

CHAT = "/v1/chat/completions"
MOST = 50_000
"""Requests in one batch."""
NOT_ASKED = frozenset({"batch_expired", "batch_cancelled"})
ENDS = {"completed": "succeeded", "failed": "failed", "expired": "failed", "cancelled": "cancelled"}


class OpenAIBatches(Batches):
    """Sends chat requests over `/files` and `/batches`. `encode` writes the body of one."""

    _purpose: ClassVar[str] = "batch"

    def __init__(self, endpoints: Endpoints, encode: Callable[[Request], bytes]) -> None:
        self._endpoints, self._encode = endpoints, encode

    async def submit(self, requests: Mapping[str, Request], *, tag: str, http: Http) -> Job:
        models = {request.model.name for request in requests.values()}
        if len(models) != 1 or len(requests) > MOST:
            raise UsageError(f"a batch has requests to one model, at most {MOST:,}; not {len(requests):,} to {models}")
        return await start_once(
            lambda: self._tagged(tag, http),
            lambda: self._submit(requests, models.pop(), tag, http),
            lambda id: self.cancel(id, http),  # noqa: A006  # the provider's word
        )

    async def get(self, id: str, http: Http) -> Job:  # noqa: A002
        return self._job(await self._endpoints.get(f"/batches/{id}", http))

    async def cancel(self, id: str, http: Http) -> Job:  # noqa: A002
        return self._job(await self._endpoints.post(f"/batches/{id}/cancel", None, http))

    async def find(self, tag: str, http: Http) -> Job | None:
        return latest(await self._tagged(tag, http))

    async def results(self, job: Job, http: Http) -> AsyncIterator[tuple[str, Completion | ProviderError]]:
        for file in (job.output or "").split():
            async for line in self._endpoints.lines(f"/files/{file}/content", http):
                if (result := self._result(line)) is not None:
                    yield str(line.get("custom_id")), result

    async def _submit(self, requests: Mapping[str, Request], model: str, tag: str, http: Http) -> Job:
        content = b"".join(self._line(key, request) for key, request in requests.items())
        uploaded = await self._endpoints.upload(f"{tag}.jsonl", content, http, purpose=self._purpose)
        return self._job(await self._create(self._endpoints.id_in(uploaded), model, tag, http), tag)

    def _line(self, key: str, request: Request) -> bytes:
        begin = b'{"custom_id":%b,"method":"POST","url":%b,"body":' % (quote(key), quote(CHAT))
        return begin + self._encode(request) + b"}\n"

    async def _create(self, file: str, model: str, tag: str, http: Http) -> Object:
        body: JsonValue = {
            "input_file_id": file,
            "endpoint": CHAT,
            "completion_window": "24h",
            "metadata": {TAG: tag},
        }
        return await self._endpoints.post("/batches", body, http)

    async def _tagged(self, tag: str, http: Http) -> list[Dated]:
        """Find batches by our mark, or, on a server that keeps no metadata, by the name of their file."""
        listed = await self._endpoints.listed("/batches", http)
        found = [each for each in listed if part(each, "metadata").get(TAG) == tag]
        if not found and any(each.get("metadata") is None for each in listed):
            files = await self._endpoints.listed("/files", http, {"purpose": self._purpose})
            ours = {each.get("id") for each in files if each.get("filename") == f"{tag}.jsonl"}
            found = [each for each in listed if each.get("input_file_id") in ours]
        return [Dated(str(each.get("created_at")), self._job(each, tag)) for each in found]

    def _job(self, found: Object, tag: str | None = None) -> Job:
        """Read a batch. A word that is not known is no end."""
        told = str(found.get("status"))
        status: Any = ENDS.get(told.lower(), "running")
        files = [str(found[name]) for name in ("output_file_id", "error_file_id") if found.get(name)]
        return Job(
            id=self._endpoints.id_in(found),
            status=status,
            told=told,
            tag=tag or part(found, "metadata").get(TAG),
            reason=_reason(found, told) if status != "running" else None,
            output=" ".join(files) or None,
        )

    def _result(self, line: Object) -> Completion | ProviderError | None:
        """Read what became of one request; None where it was not asked."""
        name = self._endpoints.name
        if not (response := line.get("response")):
            error: Any = line.get("error") or {}
            if error.get("code") in NOT_ASKED:
                return None
            return self._endpoints.error(Reply(status=500, headers={}, body=compact({"error": error})))
        status, headers = int(response.get("status_code") or 200), {"x-request-id": str(response.get("request_id"))}
        reply = Reply(status=status, headers=headers, body=json.dumps(response.get("body")).encode())
        if status != 200:
            return self._endpoints.error(reply)
        try:
            return completion_from(reply, provider=name, model="", secrets=self._endpoints.secrets())
        except ProviderError as error:
            return error


def _reason(found: Object, told: str) -> str | None:
    """Say why a batch failed, in the provider's words."""
    if ENDS.get(told.lower()) == "succeeded":
        return None
    errors: list[Object] = part(found, "errors").get("data") or []
    messages = [str(each.get("message")) for each in errors]
    if told_error := found.get("error"):
        messages.append(str(told_error))
    return clip("; ".join(messages) or told.lower())
