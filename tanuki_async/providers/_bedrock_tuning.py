"""Trains models on Bedrock: fine-tuning, or distillation from a teacher there."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from typing import Any, Literal
from urllib.parse import quote

from tanuki_async._errors import AuthenticationError, RequestRejectedError
from tanuki_async._records import Job, Training
from tanuki_async.abc import Http, Tuning
from tanuki_async.providers._bedrock_control import Control, Place, job_name, tag_of

JOBS = "/model-customization-jobs"
DEPLOYMENTS = "/model-customization/custom-model-deployments"
MOST_JOBS = 100
LONGEST_ANSWER = 1_000
"""Tokens that a distillation's teacher may use for one answer."""

_STATUS: dict[str, Literal["succeeded", "failed", "cancelled"]] = {
    "Completed": "succeeded",
    "Failed": "failed",
    "Stopped": "cancelled",
}
_CLOSED = re.compile(r"not support.*(?:customi[sz]|fine.?tun|distill)|end of (?:its )?life|no longer", re.IGNORECASE)


class BedrockTuning(Tuning):
    """Starts customization jobs, and serves what they made where that is paid by the token.

    A completed job gets an on-demand deployment, which costs nothing while nobody asks it. Provisioned throughput is
    billed by the hour and never started: the job's `reason` then tells the command.
    """

    def __init__(self, control: Control, *, bucket: str | None, role: str | None, teacher: str | None) -> None:
        self._control, self._bucket, self._role, self._teacher = control, bucket, role, teacher

    def trains(self, model: str) -> bool:
        """Tell whether there is a place for a training's files; which models can be trained changes often."""
        return self._bucket is not None

    async def start(self, training: Training, http: Http) -> Job:
        """Upload and start a training, unless one with its tag is there already."""
        place = Place.of(self._bucket, self._role, to="training a model")
        if (known := await self.find(training.tag, http)) is not None:
            return known
        folder = place.folder(job_name(training.tag))
        for name, lines in (("train", training.lines), ("validation", training.validation)):
            if lines:
                await self._control.put(http, f"{folder}/{name}.jsonl", await asyncio.to_thread(converted, lines))
        try:
            answer = await self._control.post(http, JOBS, self._job(training, place.role, folder))
        except RequestRejectedError as error:
            if error.code == "ConflictException" and (known := await self.find(training.tag, http)) is not None:
                return known
            if _CLOSED.search(error.message):
                error.code = "training_not_available"
            raise
        return Job(id=self._control.id_in(answer), status="running", told="InProgress", tag=training.tag)

    async def find(self, tag: str, http: Http) -> Job | None:
        """Look for the latest training with this tag."""
        name = job_name(tag)
        for found in await self._list(http, name):
            if found.get("jobName") == name:
                return await self.get(self._control.id_in(found), http)
        return None

    async def get(self, id: str, http: Http) -> Job:  # noqa: A002
        """Return a training as it stands. One that is completed is running until what it made answers."""
        facts = await self._control.get(http, f"{JOBS}/{quote(id, safe='')}")
        job = _job(self._control.id_in(facts), facts, facts.get("failureMessage"))
        made = facts.get("outputModelArn")
        if job.status != "succeeded" or not made:
            return job
        return await self._served(job, made, http)

    async def cancel(self, id: str, http: Http) -> Job:  # noqa: A002
        """Ask for a training to end, and return it as it stands then."""
        try:
            await self._control.post(http, f"{JOBS}/{quote(id, safe='')}/stop")
        except RequestRejectedError as error:
            if error.code != "ConflictException":  # it has ended already
                raise
        return await self.get(id, http)

    async def jobs(self, http: Http) -> list[Job]:
        """List the trainings of this account, the latest first."""
        return [_job(self._control.id_in(each), each, None) for each in await self._list(http)]

    async def _list(self, http: Http, name: str | None = None) -> list[dict[str, Any]]:
        query: dict[str, str | int] = {"maxResults": MOST_JOBS, "sortBy": "CreationTime", "sortOrder": "Descending"}
        if name is not None:
            query["nameContains"] = name
        answer = await self._control.get(http, JOBS, **query)
        found: list[dict[str, Any]] = answer.get("modelCustomizationJobSummaries") or []
        return found

    def _job(self, training: Training, role: str, folder: str) -> dict[str, Any]:
        name = job_name(training.tag)
        fields: dict[str, Any] = {
            "jobName": name,
            "customModelName": name,
            "roleArn": role,
            "clientRequestToken": name,
            "baseModelIdentifier": training.base,
            "customizationType": "FINE_TUNING" if self._teacher is None else "DISTILLATION",
            "trainingDataConfig": {"s3Uri": f"{folder}/train.jsonl"},
            "outputDataConfig": {"s3Uri": f"{folder}/out/"},
        }
        if training.validation:
            fields["validationDataConfig"] = {"validators": [{"s3Uri": f"{folder}/validation.jsonl"}]}
        if training.epochs is not None and self._teacher is None:
            fields["hyperParameters"] = {"epochCount": str(training.epochs)}
        if self._teacher is not None:
            teacher = {"teacherModelIdentifier": self._teacher, "maxResponseLengthForInference": LONGEST_ANSWER}
            fields["customizationConfig"] = {"distillationConfig": {"teacherModelConfig": teacher}}
        return fields

    async def _served(self, job: Job, made: str, http: Http) -> Job:
        """Find or make the deployment of a model that is ready."""
        try:
            known = await self._control.get(http, DEPLOYMENTS, modelArnEquals=made)
            found: list[dict[str, Any]] = known.get("modelDeploymentSummaries") or []
            if not found:
                name = job_name(job.tag or made.rpartition("/")[2])
                fields = {"modelDeploymentName": name, "modelArn": made, "clientRequestToken": name}
                await self._control.post(http, DEPLOYMENTS, fields)
                found = [{"status": "Creating"}]
        except (RequestRejectedError, AuthenticationError) as error:
            return _with(job, reason=_by_the_hour(made, error.message))
        active = next((each for each in found if each.get("status") == "Active"), None)
        if active is not None:
            return _with(job, model=active["customModelDeploymentArn"])
        if any(each.get("status") == "Creating" for each in found):
            return Job(id=job.id, status="running", told="Completed, its deployment Creating", tag=job.tag)
        return _with(job, reason=_by_the_hour(made, found[0].get("failureMessage") or "its deployment failed"))


def converted(lines: Sequence[bytes]) -> bytes:
    """Write chats in OpenAI's form as Bedrock's, a line each."""
    return b"".join(
        [json.dumps(_conversation(json.loads(line)), ensure_ascii=False).encode() + b"\n" for line in lines]
    )


def _conversation(chat: dict[str, Any]) -> dict[str, Any]:
    system = [_said(each) for each in chat["messages"] if each["role"] in ("system", "developer")]
    turns = [
        {"role": each["role"], "content": [_said(each)]}
        for each in chat["messages"]
        if each["role"] in ("user", "assistant")
    ]
    fields: dict[str, Any] = {"schemaVersion": "bedrock-conversation-2024"}
    return {**fields, **({"system": system} if system else {}), "messages": turns}


def _said(message: dict[str, Any]) -> dict[str, str]:
    return {"text": message["content"]}


def _job(id_: str, facts: dict[str, Any], reason: str | None) -> Job:
    told = str(facts.get("status", ""))
    return Job(
        id=id_,
        status=_STATUS.get(told, "running"),
        told=told,
        tag=tag_of(facts.get("jobName")),
        reason=reason,
    )


def _with(job: Job, *, model: str | None = None, reason: str | None = None) -> Job:
    return Job(id=job.id, status=job.status, told=job.told, tag=job.tag, model=model, reason=reason)


def _by_the_hour(made: str, why: str) -> str:
    return (
        f"the model is trained, but nothing answers with it: {why}. It can be served by provisioned throughput, which "
        f"is billed by the hour: `aws bedrock create-provisioned-model-throughput --model-units 1 "
        f"--provisioned-model-name NAME --model-id {made}`; then write the model as 'bedrock:<provisionedModelArn>'"
    )
