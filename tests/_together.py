"""A loopback server that trains models and answers batches as Together AI does, with the bodies of the fixtures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import parse_qs

from _jobs import fixture, form_of

from tanuki_async._records import Reply
from tanuki_async.testing import Fault, LoopbackServer
from tanuki_async.testing._http import HttpRequest
from tanuki_async.testing._openai import read_chat, write_chat
from tanuki_async.testing.answers import as_answer

TRAINING = ("pending", "queued", "running", "compressing", "uploading", "completed")
BATCH = ("VALIDATING", "IN_PROGRESS", "COMPLETED")


class TogetherJobs:
    """Adds files, fine-tunes and batches. Each look at a job moves it on by one status. `plain` knows no redirects."""

    def __init__(
        self,
        server: LoopbackServer,
        *,
        training: Sequence[str] = TRAINING,
        batch: Sequence[str] = BATCH,
        answer: Callable[[Any], Any] | None = None,
        plain: bool = False,
    ) -> None:
        self.server, self.training, self.batch, self.answer, self.plain = server, training, batch, answer, plain
        self.files: dict[str, tuple[str, str, bytes]] = {}
        self.sums: dict[str, str] = {}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.preprocessed: list[str] = []
        self.store_headers: list[dict[str, str]] = []
        self.processing = "COMPLETED"
        self.cut = 0
        self._scripts: dict[str, list[str]] = {}
        self._bodies = fixture("together", "finetune_jobs_by_status")["bodies"]
        self._batch_bodies = fixture("together", "batches")["retrieve_by_status"]
        server.route("POST", "/v1/files", self._upload)
        server.route(
            "GET", "/v1/files", lambda _: {"data": [{"id": k, "filename": v[0]} for k, v in self.files.items()]}
        )
        server.route("POST", "/v1/fine-tunes", self._create)
        server.route("GET", "/v1/fine-tunes", lambda _: {"data": [self._short(each) for each in self.jobs.values()]})
        server.route("GET", "/v1/fine-tunes/models/limits", {"lora_training": {"default_rank": 64}})
        server.route("GET", "/v1/models", lambda _: [{"id": "Qwen/Qwen3.5-9B"}])
        server.route("POST", "/v1/batches", self._create_batch)
        server.route("GET", "/v1/batches", lambda _: list(self.batches.values()))

    def alive(self) -> list[str]:
        found = (*self.jobs.values(), *self.batches.values())
        return [job["id"] for job in found if job["status"].lower() not in ("cancelled", "cancel_requested")]

    def _upload(self, request: HttpRequest) -> Any:
        if request.headers["content-type"].startswith("multipart"):
            form = form_of(request)
            return self._ready(self._kept(form["file"][0] or "", form["purpose"][1].decode(), form["file"][1]))
        if self.plain:
            return Fault.status(415)
        fields = {name: values[0] for name, values in parse_qs(request.body.decode()).items()}
        if fields["checksum"] in self.sums:
            return Reply(status=409, headers={}, body=json.dumps({"file_id": self.sums[fields["checksum"]]}).encode())
        file_id = self._kept(fields["file_name"], fields["purpose"], b"")
        self.server.route("PUT", f"/v1/store/{file_id}", lambda put: self._put(file_id, put, fields["checksum"]))
        self.server.route("POST", f"/v1/files/{file_id}/preprocess", lambda _: self._preprocess(file_id))
        location = f"{self.server.url}/store/{file_id}"
        return Reply(status=302, headers={"location": location, "x-together-file-id": file_id}, body=b"")

    def _kept(self, name: str, purpose: str, content: bytes) -> str:
        file_id = f"file-{len(self.files) + 1}"
        self.files[file_id] = (name, purpose, content)
        self.server.route("GET", f"/v1/files/{file_id}", lambda _: self._ready(file_id))
        return file_id

    def _ready(self, file_id: str) -> Any:
        body = fixture("together", "file_upload_steps")["file_ready"]
        return {**body, "id": file_id, "processing_status": self.processing}

    def _put(self, file_id: str, request: HttpRequest, checksum: str) -> Any:
        self.store_headers.append(dict(request.headers))
        if hashlib.sha256(request.body).hexdigest() != checksum:
            return Fault.status(400)
        self.files[file_id] = (*self.files[file_id][:2], request.body)
        self.sums[checksum] = file_id
        return Reply(status=200, headers={}, body=b"")

    def _preprocess(self, file_id: str) -> Any:
        self.preprocessed.append(file_id)
        return {**fixture("together", "file_upload_steps")["steps"][2]["body"], "id": file_id}

    def _create(self, request: HttpRequest) -> Any:
        body = json.loads(request.body)
        job_id = f"ft-{len(self.jobs) + 1}"
        self._scripts[job_id] = list(self.training)
        base = body["model"].rpartition("/")[2]
        own = {"id": job_id, "model": body["model"], "suffix": body["suffix"], "training_file": body["training_file"]}
        name = f"acme/{base}-{body['suffix']}-9f8e7d6c"
        times = {"created_at": f"2026-11-22T10:00:{len(self.jobs):02}Z"}
        created = {**fixture("together", "finetune_create")["body"], "status": self.training[0]}
        self.jobs[job_id] = {**created, **own, **times, "model_output_name": name}
        self.server.route("GET", f"/v1/fine-tunes/{job_id}", lambda _: self._look(job_id))
        self.server.route("POST", f"/v1/fine-tunes/{job_id}/cancel", lambda _: self._move(job_id, "cancel_requested"))
        self.server.route("GET", f"/v1/fine-tunes/{job_id}/events", fixture("together", "finetune_events")["body"])
        if self.cut:
            self.cut -= 1
            return Fault.cut_midway()
        return self.jobs[job_id]

    def _short(self, job: dict[str, Any]) -> dict[str, Any]:
        return {key: job[key] for key in ("id", "status", "created_at", "model", "model_output_name")}

    def _look(self, job_id: str) -> Any:
        script = self._scripts[job_id]
        if len(script) > 1:
            script.pop(0)
            self._move(job_id, script[0])
        return self.jobs[job_id]

    def _move(self, job_id: str, status: str) -> Any:
        body, job = self._bodies[status], self.jobs[job_id]
        job |= {key: body[key] for key in ("status", "events", "progress")}
        if status == "completed":
            job |= {"model_object_id": "ml_abc", "model_object_name": job["model_output_name"]}
        return job

    def _create_batch(self, request: HttpRequest) -> Any:
        body = json.loads(request.body)
        batch_id = f"b{len(self.batches) + 1}"
        self._scripts[batch_id] = list(self.batch)
        created = fixture("together", "batches")["create"]
        own = {"id": batch_id, "input_file_id": body["input_file_id"], "model_id": body["model_id"]}
        self.batches[batch_id] = {**created["job"], **own}
        self.server.route("GET", f"/v1/batches/{batch_id}", lambda _: self._look_at_batch(batch_id))
        self.server.route("POST", f"/v1/batches/{batch_id}/cancel", lambda _: self._end(batch_id, "CANCELLED"))
        return {**created, "job": self.batches[batch_id]}

    def _look_at_batch(self, batch_id: str) -> Any:
        script = self._scripts[batch_id]
        if len(script) > 1:
            script.pop(0)
        return self._end(batch_id, script[0])

    def _end(self, batch_id: str, status: str) -> Any:
        batch = self.batches[batch_id]
        batch["status"] = status
        if status == "COMPLETED":
            batch["output_file_id"] = self._work_off(batch)
        return batch

    def _work_off(self, batch: dict[str, Any]) -> str:
        assert self.answer is not None
        output = []
        for line in map(json.loads, self.files[batch["input_file_id"]][2].splitlines()):
            assert set(line) == {"custom_id", "body"}
            request = read_chat(line["body"], {})
            body = json.loads(write_chat(request, as_answer(self.answer(request), request.schema), 1))
            output.append({"custom_id": line["custom_id"], "response": {"status_code": 200, "body": body}})
        content = "\n".join(map(json.dumps, reversed(output))).encode()
        file_id = self._kept("output.jsonl", "batch-api", content)
        self.server.route("GET", f"/v1/files/{file_id}/content", Reply(status=200, headers={}, body=content))
        return file_id
