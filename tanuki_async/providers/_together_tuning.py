"""Fine-tuning at Together AI. What it trains answers only from an endpoint that is billed by the minute."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

from tanuki_async._errors import ProviderError, ProviderUnavailableError, RequestRejectedError, clip
from tanuki_async._records import Job, JsonValue, Training
from tanuki_async.abc import Http, Tuning
from tanuki_async.providers._endpoints import FILE_SECONDS, Endpoints, Object, part
from tanuki_async.providers._once import Dated, latest, start_once
from tanuki_async.providers._secrets import Headers

EPOCHS = 3
LEARNING_RATE = 1e-5
FAMILIES = (
    "Qwen/Qwen3", "meta-llama/Meta-Llama-3", "openai/gpt-oss-", "google/gemma-3", "google/gemma-4",
)  # fmt: skip
"""What the names of tunable models begin with."""
ENDS = {"completed": "succeeded", "cancelled": "cancelled", "error": "failed", "user_error": "failed"}
BROKEN_FILE = frozenset({"FAILED", "INVALID_FORMAT"})


class TogetherFiles:
    """Files at Together AI: a form that is redirected to a store, or taken at once."""

    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints = endpoints

    async def upload(self, name: str, content: bytes, purpose: str, http: Http) -> str:
        """Upload one file and return its id. The same content is uploaded once."""
        endpoints = self._endpoints
        form = {
            "purpose": purpose,
            "file_name": name,
            "file_type": "jsonl",
            "checksum": hashlib.sha256(content).hexdigest(),
        }
        headers = Headers({**endpoints.headers(), "content-type": "application/x-www-form-urlencoded"})
        reply = await endpoints.send("POST", endpoints.url("/files"), headers, urlencode(form).encode(), http)
        if reply.status == 409:
            if not (known := _known_file(endpoints.read_any(reply))):
                raise endpoints.error(reply)
            return str(known)
        if reply.status == 302 and (file := reply.headers.get("x-together-file-id")):
            await self._put(reply.headers.get("location", ""), content, http)
            return str((await endpoints.post(f"/files/{file}/preprocess", None, http)).get("id") or file)
        if reply.status in (200, 201):
            return endpoints.id_in(endpoints.read(reply))
        if reply.status not in (400, 404, 415, 422):
            raise endpoints.error(reply)
        plain = await endpoints.upload(name, content, http, purpose=purpose, file_name=name, file_type="jsonl")
        return endpoints.id_in(plain)

    async def _put(self, address: str, content: bytes, http: Http) -> None:
        """Hand the bytes to the store. The address is a secret of its own, and the store must not see the key."""
        headers = Headers({"content-type": "application/octet-stream"})
        reply = await self._endpoints.send("PUT", address, headers, content, http, FILE_SECONDS)
        if not 200 <= reply.status < 300:
            raise ProviderUnavailableError("the file could not be stored", self._endpoints.name, "", reply.status)

    async def check(self, file: str, http: Http) -> None:
        """Raise RequestRejectedError where the provider found the file to be broken."""
        found = await self._endpoints.get(f"/files/{file}", http)
        if str(found.get("processing_status")) in BROKEN_FILE:
            told = part(found, "validation_report").get("message") or found.get("processing_status")
            raise RequestRejectedError(f"the file is refused: {clip(str(told))}", self._endpoints.name)


class TogetherTuning(Tuning):
    """Trains low-rank adapters over `/files` and `/fine-tunes`."""

    serves = False

    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints, self._files = endpoints, TogetherFiles(endpoints)

    def trains(self, model: str) -> bool:
        return model.startswith(FAMILIES)

    async def start(self, training: Training, http: Http) -> Job:
        job = await start_once(
            lambda: self._tagged(training.tag, http),
            lambda: self._create(training, http),
            lambda id: self.cancel(id, http),  # noqa: A006  # the provider's word
        )
        return await self.get(job.id, http) if job.status == "succeeded" else job

    async def find(self, tag: str, http: Http) -> Job | None:
        return latest(await self._tagged(tag, http))

    async def get(self, id: str, http: Http) -> Job:  # noqa: A002
        found = await self._endpoints.get(f"/fine-tunes/{id}", http)
        job = self._job(found)
        if job.status == "succeeded" and await self._answers(_name(found), http):
            return replace(job, model=_name(found), reason=None)
        return job

    async def _answers(self, model: str, http: Http) -> bool:
        """Tell whether a model is among those that answer without an endpoint of one's own, or has one that is up."""
        try:
            listed = await self._endpoints.listed("/models", http)
        except ProviderError:
            return False
        return model in [each.get("id") for each in listed]

    async def cancel(self, id: str, http: Http) -> Job:  # noqa: A002
        return self._job(await self._endpoints.post(f"/fine-tunes/{id}/cancel", None, http))

    async def jobs(self, http: Http) -> list[Job]:
        listed = await self._endpoints.listed("/fine-tunes", http)
        listed.sort(key=lambda each: str(each.get("created_at")), reverse=True)
        return [self._job(each) for each in listed]

    async def events(self, id: str, http: Http) -> list[str]:  # noqa: A002
        listed = await self._endpoints.listed(f"/fine-tunes/{id}/events", http)
        listed.sort(key=lambda each: str(each.get("created_at")))
        return [f"{each.get('level') or 'info'}: {each.get('message', '')}" for each in listed]

    async def _tagged(self, tag: str, http: Http) -> list[Dated]:
        listed = await self._endpoints.listed("/fine-tunes", http)
        found = [each for each in listed if _tag_of(each) == tag]
        return [Dated(str(each.get("created_at")), self._job(each)) for each in found]

    async def _create(self, training: Training, http: Http) -> Job:
        file = await self._upload(training.tag, training.lines, http)
        await self._files.check(file, http)
        # The server has no defaults of its own: what is left out here is filled in by nobody.
        body: dict[str, JsonValue] = {
            "model": training.base,
            "training_file": file,
            "suffix": training.tag,
            "n_epochs": training.epochs or EPOCHS,
            "n_checkpoints": 1,
            "batch_size": "max",
            "learning_rate": LEARNING_RATE,
            "training_type": await self._adapter(training.base, http),
            "training_method": {"method": "sft", "train_on_inputs": False},
        }
        if training.validation:
            body["validation_file"] = await self._upload(f"{training.tag}-check", training.validation, http)
            body["n_evals"] = 1
        if training.seed is not None:
            body["random_seed"] = training.seed
        return self._job(await self._endpoints.post("/fine-tunes", body, http))

    async def _adapter(self, base: str, http: Http) -> JsonValue:
        """Choose the rank that the model's own default is, and twice as much for alpha."""
        try:
            limits = await self._endpoints.get("/fine-tunes/models/limits", http, {"model_name": base})
        except RequestRejectedError:
            limits = Object()
        rank = limits.get("default_rank") or part(limits, "lora_training").get("default_rank") or 16
        return {"type": "Lora", "lora_r": int(rank), "lora_alpha": 2 * int(rank)}

    async def _upload(self, name: str, lines: tuple[bytes, ...], http: Http) -> str:
        return await self._files.upload(f"{name}.jsonl", b"".join(line + b"\n" for line in lines), "fine-tune", http)

    def _job(self, found: Object) -> Job:
        """Read a training. A word that is not known is no end."""
        told = str(found.get("status"))
        status: Any = ENDS.get(told, "running")
        return Job(
            id=self._endpoints.id_in(found),
            status=status,
            told=told,
            tag=_tag_of(found),
            model=None,
            reason=_reason(found, status),
        )


def _known_file(found: Object) -> Any:
    """Find the id of a file that is there already in the refusal of another copy."""
    return found.get("file_id") or part(found, "error").get("file_id") or found.get("id")


def _tag_of(found: Object) -> str | None:
    """Return our mark: the suffix, or, in a short form of a job, what the output's name ends with."""
    if suffix := found.get("suffix"):
        return str(suffix)
    base, name = str(found.get("model", "")).rpartition("/")[2], str(found.get("model_output_name", ""))
    tag = name.rpartition("/")[2].removeprefix(f"{base}-").rpartition("-")[0]
    return tag or None


def _reason(found: Object, status: str) -> str | None:
    if status == "failed":
        events: list[Object] = found.get("events") or []
        told = [str(each.get("message")) for each in events if each.get("level") == "error"]
        return clip("; ".join(told) or "no reason was given")
    if status != "succeeded":
        return None
    name, project = _name(found), _name(found).partition("/")[0]
    return (
        f"{name} is trained, but Together AI serves it only from a dedicated endpoint, which is billed by the minute, "
        f"used or not, at the rate that its console shows for the hardware; so none is started. To start one: POST "
        f"/v2/projects/{project}/endpoints, then its /deployments with the model "
        f"projects/{project}/models/{found.get('model_object_id')}; then student_model='together:{project}/<endpoint>'"
    )


def _name(found: Object) -> str:
    """Return what a trained model is called."""
    return str(found.get("model_object_name") or found.get("model_output_name"))
