"""Fine-tuning as OpenAI offers it, and servers that copied its endpoints."""

from __future__ import annotations

from typing import Any

from tanuki_async._errors import ProviderError, RequestRejectedError, clip
from tanuki_async._models import is_tunable
from tanuki_async._records import Job, JsonValue, Training
from tanuki_async.abc import Http, Tuning
from tanuki_async.providers._endpoints import Endpoints, Object, part
from tanuki_async.providers._once import TAG, Dated, latest, start_once

OPTIONAL = ("metadata", "method", "seed", "suffix", "validation_file")
"""Fields that a server which copied the endpoints may not know."""
ENDS = {"succeeded": "succeeded", "failed": "failed", "cancelled": "cancelled"}


class OpenAITuning(Tuning):
    """Trains models over `/files` and `/fine_tuning/jobs`. `strict`: only those that OpenAI still trains."""

    def __init__(self, endpoints: Endpoints, *, strict: bool) -> None:
        self._endpoints, self._strict = endpoints, strict

    def trains(self, model: str) -> bool:
        return is_tunable(model) if self._strict else True

    async def start(self, training: Training, http: Http) -> Job:
        return await start_once(
            lambda: self._tagged(training.tag, http),
            lambda: self._create(training, http),
            lambda id: self.cancel(id, http),  # noqa: A006  # the provider's word
        )

    async def find(self, tag: str, http: Http) -> Job | None:
        return latest(await self._tagged(tag, http))

    async def get(self, id: str, http: Http) -> Job:  # noqa: A002
        return self._job(await self._endpoints.get(f"/fine_tuning/jobs/{id}", http))

    async def cancel(self, id: str, http: Http) -> Job:  # noqa: A002
        return self._job(await self._endpoints.post(f"/fine_tuning/jobs/{id}/cancel", None, http))

    async def jobs(self, http: Http) -> list[Job]:
        listed = await self._endpoints.listed("/fine_tuning/jobs", http)
        listed.sort(key=lambda each: str(each.get("created_at")), reverse=True)
        return [self._job(each) for each in listed]

    async def events(self, id: str, http: Http) -> list[str]:  # noqa: A002
        listed = await self._endpoints.listed(f"/fine_tuning/jobs/{id}/events", http)
        return [f"{each.get('level', 'info')}: {each.get('message', '')}" for each in reversed(listed)]

    async def _tagged(self, tag: str, http: Http) -> list[Dated]:
        listed = await self._endpoints.listed("/fine_tuning/jobs", http, {f"metadata[{TAG}]": tag})
        found = [each for each in listed if _is_tagged(each, tag)]
        if not found and any(each.get("metadata") is None for each in listed):
            files = await self._endpoints.listed("/files", http, {"purpose": "fine-tune"})
            ours = {each.get("id") for each in files if each.get("filename") == f"{tag}.jsonl"}
            found = [each for each in listed if each.get("training_file") in ours]
        return [Dated(str(each.get("created_at")), self._job(each, tag)) for each in found]

    async def _create(self, training: Training, http: Http) -> Job:
        body: dict[str, JsonValue] = {
            "model": training.base,
            "training_file": await self._upload(training.tag, training.lines, http),
            "suffix": training.tag,
            "metadata": {TAG: training.tag},
            "method": {
                "type": "supervised",
                "supervised": {"hyperparameters": {"n_epochs": training.epochs or "auto"}},
            },
        }
        if training.validation:
            body["validation_file"] = await self._upload(f"{training.tag}-check", training.validation, http)
        if training.seed is not None:
            body["seed"] = training.seed
        while True:
            try:
                return self._job(await self._endpoints.post("/fine_tuning/jobs", body, http), training.tag)
            except ProviderError as error:
                if not self._concede(error, body):
                    raise

    def _concede(self, error: ProviderError, body: dict[str, JsonValue]) -> bool:
        """Leave out a field that a server does not know; True if it makes sense to ask again."""
        if self._strict or not isinstance(error, RequestRejectedError):
            return False
        field = (error.parameter or "").partition(".")[0]
        return field in OPTIONAL and body.pop(field, None) is not None

    async def _upload(self, name: str, lines: tuple[bytes, ...], http: Http) -> str:
        content = b"".join(line + b"\n" for line in lines)
        return self._endpoints.id_in(await self._endpoints.upload(f"{name}.jsonl", content, http, purpose="fine-tune"))

    def _job(self, found: Object, tag: str | None = None) -> Job:
        """Read a job. A word that is not known is no end."""
        told = str(found.get("status"))
        status: Any = ENDS.get(told, "running")
        message = part(found, "error").get("message")
        return Job(
            id=self._endpoints.id_in(found),
            status=status,
            told=told,
            tag=tag or part(found, "metadata").get(TAG),
            model=found.get("fine_tuned_model") if status == "succeeded" else None,
            reason=clip(str(message)) if message else None,
        )


def _is_tagged(found: Object, tag: str) -> bool:
    if TAG in (metadata := part(found, "metadata")):
        return bool(metadata[TAG] == tag)
    return tag in (found.get("suffix"), found.get("user_provided_suffix")) or (
        f":{tag}:" in str(found.get("fine_tuned_model"))
    )
