"""Batches at Together AI: as OpenAI's, with its own way of uploading, wrapping and naming."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

from tanuki_async._records import Job, JsonValue, Request
from tanuki_async.abc import Http
from tanuki_async.providers._bodies import quote
from tanuki_async.providers._endpoints import Endpoints, Object, part
from tanuki_async.providers._once import Dated
from tanuki_async.providers._openai_batches import CHAT, OpenAIBatches
from tanuki_async.providers._together_tuning import TogetherFiles


class TogetherBatches(OpenAIBatches):
    """Sends chat requests over `/files` and `/batches`. A batch has no metadata: it is found by its file's name."""

    _purpose: ClassVar[str] = "batch-api"

    def __init__(self, endpoints: Endpoints, encode: Callable[[Request], bytes]) -> None:
        super().__init__(endpoints, encode)
        self._files = TogetherFiles(endpoints)

    async def _submit(self, requests: Mapping[str, Request], model: str, tag: str, http: Http) -> Job:
        content = b"".join(self._line(key, request) for key, request in requests.items())
        file = await self._files.upload(f"{tag}.jsonl", content, self._purpose, http)
        return self._job(await self._create(file, model, tag, http), tag)

    def _line(self, key: str, request: Request) -> bytes:
        return b'{"custom_id":%b,"body":' % quote(key) + self._encode(request) + b"}\n"

    async def _create(self, file: str, model: str, tag: str, http: Http) -> Object:
        body: JsonValue = {"input_file_id": file, "endpoint": CHAT, "completion_window": "24h", "model_id": model}
        found = await self._endpoints.post("/batches", body, http)
        return part(found, "job") or found

    async def _tagged(self, tag: str, http: Http) -> list[Dated]:
        listed = await self._endpoints.listed("/batches", http)
        if not listed:
            return []
        files = await self._endpoints.listed("/files", http)
        ours = {each.get("id") for each in files if each.get("filename") == f"{tag}.jsonl"}
        found = [each for each in listed if each.get("input_file_id") in ours]
        return [Dated(str(each.get("created_at")), self._job(each, tag)) for each in found]
