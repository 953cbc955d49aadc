"""Asks many requests in one job of Bedrock, from a file in S3 to a file in S3."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Literal, cast
from urllib.parse import quote

from pydantic_core import from_json

from tanuki_async._errors import ProviderError, RequestRejectedError
from tanuki_async._records import Completion, Job, Model, Reply, Request
from tanuki_async.abc import Batches, Http
from tanuki_async.providers import _bedrock_converse, _bedrock_invoke
from tanuki_async.providers._aws_errors import aws_error
from tanuki_async.providers._bedrock_abilities import Taken
from tanuki_async.providers._bedrock_control import Control, Place, job_name, tag_of

JOB, LIST = "/model-invocation-job", "/model-invocation-jobs"
FEWEST = 100
HOURS = 24
FILE = "requests.jsonl"

_STATUS: dict[str, Literal["succeeded", "failed", "cancelled"]] = {
    "Completed": "succeeded",
    "PartiallyCompleted": "succeeded",
    "Failed": "failed",
    "Expired": "failed",
    "Stopped": "cancelled",
}


class BedrockBatches(Batches):
    """Starts model invocation jobs: at least 100 requests, all to one model."""

    def __init__(
        self,
        control: Control,
        *,
        name: str,
        bucket: str | None,
        role: str | None,
        how: Callable[[Model], _bedrock_invoke.Format | None],
    ) -> None:
        self._control, self._name, self._bucket, self._role, self._how = control, name, bucket, role, how

    async def submit(self, requests: Mapping[str, Request], *, tag: str, http: Http) -> Job:
        """Send requests, unless a batch with this tag is there."""
        place = Place.of(self._bucket, self._role, to="a batch")
        model = self._only_model(requests)
        if (known := await self.find(tag, http)) is not None:
            return known
        name, how = job_name(tag), self._how(model)
        folder = place.folder(name)
        await self._control.put(http, f"{folder}/{FILE}", await asyncio.to_thread(written, requests, how))
        fields = {
            "jobName": name,
            "roleArn": place.role,
            "clientRequestToken": name,
            "modelId": model.name,
            "inputDataConfig": {"s3InputDataConfig": {"s3InputFormat": "JSONL", "s3Uri": f"{folder}/{FILE}"}},
            "outputDataConfig": {"s3OutputDataConfig": {"s3Uri": f"{folder}/out/"}},
            "timeoutDurationInHours": HOURS,
            "modelInvocationType": "Converse" if how is None else "InvokeModel",
        }
        try:
            answer = await self._control.post(http, JOB, fields)
        except RequestRejectedError as error:
            if error.code == "ConflictException" and (known := await self.find(tag, http)) is not None:
                return known
            raise
        return Job(id=self._control.id_in(answer), status="running", told="Submitted", tag=tag)

    async def get(self, id: str, http: Http) -> Job:  # noqa: A002
        """Return a batch as it stands."""
        return self._job(await self._control.get(http, f"{JOB}/{quote(id, safe='')}"))

    async def cancel(self, id: str, http: Http) -> Job:  # noqa: A002
        """Ask for a batch to end, and return it as it stands then."""
        try:
            await self._control.post(http, f"{JOB}/{quote(id, safe='')}/stop")
        except RequestRejectedError as error:
            if error.code != "ConflictException":  # it has ended already
                raise
        return await self.get(id, http)

    async def find(self, tag: str, http: Http) -> Job | None:
        """Look for the latest batch with this tag."""
        name = job_name(tag)
        answer = await self._control.get(
            http, LIST, nameContains=name, maxResults=100, sortBy="CreationTime", sortOrder="Descending"
        )
        found: list[dict[str, Any]] = answer.get("invocationJobSummaries") or []
        return next((self._job(each) for each in found if each.get("jobName") == name), None)

    async def results(self, job: Job, http: Http) -> AsyncIterator[tuple[str, Completion | ProviderError]]:
        """Yield what became of each request, as the file of results tells it."""
        if job.output is None:
            return
        try:
            async with aclosing(self._control.lines(http, job.output)) as lines:
                async for line in lines:
                    if line.strip():
                        yield self._result(from_json(line))
        except RequestRejectedError as error:
            if error.status != 404 or job.status == "succeeded":  # one that was stopped early has no file
                raise

    def _only_model(self, requests: Mapping[str, Request]) -> Model:
        models = {request.model.name: request.model for request in requests.values()}
        if len(requests) < FEWEST:
            raise RequestRejectedError(f"a batch needs at least {FEWEST} requests, not {len(requests)}", self._name)
        if len(models) > 1:
            raise RequestRejectedError(f"a batch is for one model, not for {', '.join(models)}", self._name)
        return next(iter(models.values()))

    def _result(self, line: dict[str, Any]) -> tuple[str, Completion | ProviderError]:
        key = str(line.get("recordId"))
        output = line.get("modelOutput")
        try:
            if not isinstance(output, dict):
                return key, _error(line.get("error"), self._name)
            return key, _completion(cast("dict[str, Any]", output), self._name)
        except ProviderError as error:  # a refusal, or no answer
            return key, error

    def _job(self, facts: dict[str, Any]) -> Job:
        told, id_ = str(facts.get("status", "")), self._control.id_in(facts)
        place, source = _uri(facts, "output"), _uri(facts, "input")
        file = f"{id_.rpartition('/')[2]}/{source.rpartition('/')[2]}.out"
        return Job(
            id=id_,
            status=_STATUS.get(told, "running"),
            told=told,
            tag=tag_of(facts.get("jobName")),
            reason=facts.get("message"),
            output=f"{place.rstrip('/')}/{file}" if told in _STATUS else None,
        )


def written(requests: Mapping[str, Request], how: _bedrock_invoke.Format | None) -> bytes:
    """Write the file of requests. Tools are no part of such a job; instructions alone then ask for the form."""
    converse = _bedrock_converse.Converse()
    kept: dict[str, Taken] = {}

    def body(request: Request) -> bytes:
        if how is not None:
            return _bedrock_invoke.encode(request, how)
        taken = kept.get(request.model.name)
        if taken is None:
            taken = Taken.of(request.model)
            taken = replace(taken, structured="none") if taken.structured == "tool" else taken
            kept[request.model.name] = taken
        return converse.encode(request, taken)

    lines = [
        b'{"recordId":%b,"modelInput":%b}\n' % (json.dumps(key).encode(), body(request))
        for key, request in requests.items()
    ]
    return b"".join(lines)


def _completion(output: dict[str, Any], provider: str) -> Completion:
    """Read an answer in the format that it has."""
    reply = Reply(status=200, headers={}, body=json.dumps(output).encode())
    for key, name in (("content", "claude"), ("generation", "llama"), ("results", "titan")):
        if key in output:
            return _bedrock_invoke.FORMATS[name].read(reply, provider, "")
    return _bedrock_converse.completion_from(reply, provider=provider, model="")


def _error(told: object, provider: str) -> ProviderError:
    facts = cast("dict[str, Any]", told) if isinstance(told, dict) else {}
    status = facts.get("errorCode")
    body = json.dumps({"message": facts.get("errorMessage") or "no answer was given"}).encode()
    reply = Reply(status=status if isinstance(status, int) else 500, headers={}, body=body)
    return aws_error(reply, provider=provider, model="")


def _uri(facts: dict[str, Any], side: str) -> str:
    config: dict[str, Any] = facts.get(f"{side}DataConfig") or {}
    place: dict[str, Any] = config.get(f"s3{side.capitalize()}DataConfig") or {}
    return str(place.get("s3Uri", ""))
