"""A loopback server that trains models and answers batches as OpenAI does, with the bodies of the fixtures."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from email.parser import BytesParser
from pathlib import Path
from typing import Any

from tanuki_async._records import Reply
from tanuki_async.testing import Fault, LoopbackServer
from tanuki_async.testing._http import HttpRequest
from tanuki_async.testing._openai import read_chat, write_chat
from tanuki_async.testing.answers import as_answer

FIXTURES = Path(__file__).parent / "fixtures"
TRAINING = ("validating_files", "queued", "running", "paused", "succeeded")
BATCH = ("validating", "in_progress", "finalizing", "completed")


_TEXTS = {f"{path.parent.name}/{path.stem}": path.read_text() for path in FIXTURES.glob("*/*.json")}


def fixture(provider: str, case: str) -> dict[str, Any]:
    return json.loads(_TEXTS[f"{provider}/{case}"])


def form_of(request: HttpRequest) -> dict[str, tuple[str | None, bytes]]:
    """The fields of a multipart body, each with its file name, as an independent parser reads them."""
    head = f"content-type: {request.headers['content-type']}\r\n\r\n".encode()
    message = BytesParser().parsebytes(head + request.body)
    assert message.is_multipart()
    return {
        str(each.get_param("name", header="content-disposition")): (each.get_filename(), each.get_payload(decode=True))
        for each in message.get_payload()
    }


class OpenAIJobs:
    """Adds files, fine-tuning and batches to a server. Each look at a job moves it on by one status.

    `cut` creations happen but their answer is lost. Without `keeps_metadata` it is a server that only copied the paths.
    """

    def __init__(
        self,
        server: LoopbackServer,
        *,
        training: Sequence[str] = TRAINING,
        batch: Sequence[str] = BATCH,
        answer: Callable[[Any], Any] | None = None,
        keeps_metadata: bool = True,
    ) -> None:
        self.server, self.training, self.batch, self.answer = server, training, batch, answer
        self.keeps_metadata = keeps_metadata
        self.files: dict[str, tuple[str, str, bytes]] = {}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.cut = 0
        self.how_cut = Fault.cut_midway()
        self.refusal: Any = None
        self.before_create: Callable[[], None] | None = None
        self._scripts: dict[str, list[str]] = {}
        self._bodies = fixture("openai", "finetune_jobs_by_status")["bodies"]
        self._batch_bodies = fixture("openai", "batches_by_status")["bodies"]
        server.route("POST", "/v1/files", self._upload)
        server.route("GET", "/v1/files", self._list_files)
        server.route("POST", "/v1/fine_tuning/jobs", self._create)
        server.route("GET", "/v1/fine_tuning/jobs", lambda _: self._page(self.jobs))
        server.route("POST", "/v1/batches", self._create_batch)
        server.route("GET", "/v1/batches", lambda _: self._page(self.batches))

    def alive(self) -> list[dict[str, Any]]:
        return [job for job in (*self.jobs.values(), *self.batches.values()) if job["status"] != "cancelled"]

    def add(self, body: dict[str, Any]) -> dict[str, Any]:
        """Create a training, as a request or as somebody else."""
        job_id = f"ftjob-{len(self.jobs) + 1}"
        self._scripts[job_id] = list(self.training)
        kept = {"metadata": body.get("metadata")} if self.keeps_metadata else {"metadata": None}
        own = {
            "id": job_id,
            "model": body["model"],
            "training_file": body["training_file"],
            "suffix": body.get("suffix"),
        }
        self.jobs[job_id] = {
            **self._bodies[self.training[0]],
            **own,
            **kept,
            "created_at": 1_795_300_000 + len(self.jobs),
        }
        self.server.route("GET", f"/v1/fine_tuning/jobs/{job_id}", lambda _: self._look(job_id))
        self.server.route("POST", f"/v1/fine_tuning/jobs/{job_id}/cancel", lambda _: self._move(job_id, "cancelled"))
        self.server.route("GET", f"/v1/fine_tuning/jobs/{job_id}/events", fixture("openai", "finetune_events")["body"])
        return self.jobs[job_id]

    def _upload(self, request: HttpRequest) -> Any:
        form = form_of(request)
        name, content = form["file"]
        file_id = f"file-{len(self.files) + 1}"
        purpose = form["purpose"][1].decode()
        self.files[file_id] = (str(name), purpose, content)
        body = fixture("openai", "file_uploaded")["body"]
        return {**body, "id": file_id, "filename": name, "bytes": len(content), "purpose": purpose}

    def _list_files(self, request: HttpRequest) -> Any:
        found = [
            {"id": key, "filename": name} for key, (name, purpose, _) in self.files.items() if purpose in request.query
        ]
        return {"object": "list", "data": found, "has_more": False}

    def _create(self, request: HttpRequest) -> Any:
        if self.refusal is not None:
            return self.refusal
        if self.before_create is not None:
            self.before_create()
        job = self.add(json.loads(request.body))
        return self._answered(job)

    def _answered(self, value: dict[str, Any]) -> Any:
        if self.cut:
            self.cut -= 1
            return self.how_cut
        return value

    def _page(self, found: dict[str, dict[str, Any]]) -> Any:
        return {"object": "list", "data": list(reversed(found.values())), "has_more": False}

    def _look(self, job_id: str) -> Any:
        script = self._scripts[job_id]
        if len(script) > 1:
            script.pop(0)
            self._move(job_id, script[0])
        return self.jobs[job_id]

    def _move(self, job_id: str, status: str) -> Any:
        self._scripts[job_id] = [status, *self._scripts[job_id][1:]] if status != "cancelled" else [status]
        body = self._bodies[status]
        job = self.jobs[job_id]
        job |= {key: body[key] for key in ("status", "finished_at", "error", "trained_tokens")}
        if status == "succeeded":
            job["fine_tuned_model"] = f"ft:{job['model']}:acme:{job['suffix']}:{job_id}"
        return job

    def _create_batch(self, request: HttpRequest) -> Any:
        body = json.loads(request.body)
        batch_id = f"batch_{len(self.batches) + 1}"
        self._scripts[batch_id] = list(self.batch)
        kept = {"metadata": body.get("metadata")} if self.keeps_metadata else {"metadata": None}
        own = {"id": batch_id, "input_file_id": body["input_file_id"]}
        self.batches[batch_id] = {
            **self._batch_bodies[self.batch[0]],
            **own,
            **kept,
            "created_at": 1_795_300_000 + len(self.batches),
        }
        self.server.route("GET", f"/v1/batches/{batch_id}", lambda _: self._look_at_batch(batch_id))
        self.server.route("POST", f"/v1/batches/{batch_id}/cancel", lambda _: self._move_batch(batch_id, "cancelled"))
        return self._answered(self.batches[batch_id])

    def _look_at_batch(self, batch_id: str) -> Any:
        script = self._scripts[batch_id]
        if len(script) > 1:
            script.pop(0)
            self._move_batch(batch_id, script[0])
        return self.batches[batch_id]

    def _move_batch(self, batch_id: str, status: str) -> Any:
        batch, body = self.batches[batch_id], self._batch_bodies[status]
        batch |= {key: body[key] for key in ("status", "errors", "request_counts")}
        if status in ("completed", "expired"):
            batch |= self._work_off(batch, whole=status == "completed")
        return batch

    def _work_off(self, batch: dict[str, Any], *, whole: bool) -> dict[str, str]:
        """Answer the lines of a batch, half of them where it expired; results in any order, errors apart."""
        lines = [json.loads(line) for line in self.files[batch["input_file_id"]][2].splitlines()]
        random.Random(7).shuffle(lines)
        done = lines if whole else lines[: len(lines) // 2]
        output, errors = [], []
        for line in done:
            assert (line["method"], line["url"]) == ("POST", "/v1/chat/completions")
            reply = self._reply(line["body"])
            response = {"status_code": reply.status, "request_id": "req_b1", "body": json.loads(reply.body)}
            (output if reply.status == 200 else errors).append(
                {"id": "batch_req_1", "custom_id": line["custom_id"], "response": response, "error": None}
            )
        expired = fixture("openai", "batch_files")["error_lines"][0]
        errors += [{**expired, "custom_id": line["custom_id"]} for line in lines[len(done) :]]
        return {"output_file_id": self._add(output), "error_file_id": self._add(errors)}

    def _reply(self, body: dict[str, Any]) -> Reply:
        assert self.answer is not None
        request = read_chat(body, {})
        result = self.answer(request)
        if isinstance(result, Fault):
            assert result.reply is not None
            return result.reply
        answer = as_answer(result, request.schema)
        return Reply(status=200, headers={}, body=write_chat(request, answer, 1))

    def _add(self, lines: list[dict[str, Any]]) -> str:
        file_id = f"file-{len(self.files) + 1}"
        content = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
        self.files[file_id] = ("output.jsonl", "batch_output", content)
        self.server.route("GET", f"/v1/files/{file_id}/content", Reply(status=200, headers={}, body=content))
        return file_id
