"""AWS Bedrock: chat models through Converse or their own formats, and Titan's embeddings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from tanuki_async._errors import (
    ProviderError,
    ProviderUnreachableError,
    RequestRejectedError,
    SettingsError,
)
from tanuki_async._records import Completion, Limits, Model, Reply, Request, Usage
from tanuki_async.abc import Http, Provider
from tanuki_async.providers import _bedrock_converse, _bedrock_invoke, _bedrock_models, _bedrock_stream
from tanuki_async.providers._account import check_url
from tanuki_async.providers._aws import AwsAccount
from tanuki_async.providers._aws_errors import aws_error, keys_have_ended
from tanuki_async.providers._bedrock_abilities import Taken
from tanuki_async.providers._bedrock_batches import BedrockBatches
from tanuki_async.providers._bedrock_control import Control
from tanuki_async.providers._bedrock_tuning import BedrockTuning
from tanuki_async.providers._chunks import whole_reply
from tanuki_async.providers._concessions import MOST, Concessions
from tanuki_async.providers._secrets import Headers, secrets_in, without

__all__ = ["Bedrock"]

_TEXTS_AT_ONCE = 8
"""Texts of one batch that are embedded at the same time; Titan takes one in a request."""


class Bedrock(Provider):
    """AWS Bedrock in one region, with an API key (AWS_BEARER_TOKEN_BEDROCK) or the usual AWS credentials.

    Requests go over the shared connections and are signed here, so keys in the environment need no AWS library;
    profiles, SSO and roles need the extra `bedrock`. `session` is a Session of aioboto3 or boto3. A model is a plain
    id, an inference profile or an ARN; for an ARN that does not tell its model, describe it with `models`.
    `dimensions` and `normalize` are for Titan's embeddings. Trainings and batches keep their files in `tuning_bucket`
    (`s3://bucket/prefix`), which Bedrock uses as `tuning_role`; with a `tuning_teacher` a training is a distillation.
    """

    embedding_batch = 1  # so that each text keeps to the limits, and fails, by itself

    def __init__(
        self,
        api_key: str | None = None,
        *,
        region: str | None = None,
        profile: str | None = None,
        session: Any = None,
        base_url: str | None = None,
        name: str = "bedrock",
        models: Mapping[str, Model] | None = None,
        limits: Limits | None = None,
        dimensions: int | None = None,
        normalize: bool = True,
        tuning_bucket: str | None = None,
        tuning_role: str | None = None,
        tuning_teacher: str | None = None,
    ) -> None:
        if api_key is not None and (profile is not None or session is not None):
            raise SettingsError("Bedrock(api_key=…) is an account of its own; leave out profile= and session=")
        self.name = name
        self.limits = limits or Limits()
        self._where = base_url or region or ""
        self._account = AwsAccount(
            api_key=api_key,
            region=region,
            profile=profile,
            session=session,
            base_url=None if base_url is None else check_url(base_url),
        )
        self._models = dict(models or {})
        self._dimensions, self._normalize = dimensions, normalize
        self._converse = _bedrock_converse.Converse()
        self._concessions = Concessions[Taken](name, Taken.of)
        control = Control(self._account, name)
        self.tuning = BedrockTuning(control, bucket=tuning_bucket, role=tuning_role, teacher=tuning_teacher)
        self.batches = BedrockBatches(control, name=name, bucket=tuning_bucket, role=tuning_role, how=self._format)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._where!r})"

    def model(self, name: str) -> Model:
        """Describe a model: as the user did, else by what its id tells of the model behind it."""
        return self._models.get(name) or replace(_bedrock_models.describe(name), provider=self.name)

    async def complete(self, request: Request, http: Http) -> Completion:
        """Ask once; a field that the model does not know is given up, for good, and the question repeated."""
        model = request.model
        if (how := self._format(model)) is not None:
            body = _bedrock_invoke.encode(request, how)
            reply = await self._post(http, model, "invoke", body)
            return how.read(reply, self.name, model.name)
        concessions = 0
        while True:
            taken = self._concessions.of(model)
            body = self._converse.encode(request, taken)
            try:
                reply = await self._post(http, model, "converse", body)
            except RequestRejectedError as error:
                concessions += 1
                if concessions > MOST or not self._concessions.learn(model, taken, error, body):
                    raise
            else:
                return _bedrock_converse.completion_from(reply, provider=self.name, model=model.name)

    async def stream(self, request: Request, http: Http) -> AsyncGenerator[str | Completion]:
        """Ask once, and yield the text as it comes, then the Completion. InvokeModel's formats come as one piece."""
        model = request.model
        if self._format(model) is not None:
            completion = await self.complete(request, http)
            yield completion.text
            yield completion
            return
        concessions = 0
        while True:
            taken = self._concessions.of(model)
            body = self._converse.encode(request, taken)
            try:
                async with aclosing(self._stream(http, model, taken, body)) as pieces:
                    async for piece in pieces:
                        yield piece
                return
            except RequestRejectedError as error:
                concessions += 1
                if concessions > MOST or not self._concessions.learn(model, taken, error, body):
                    raise

    async def embed(self, model: Model, texts: Sequence[str], http: Http) -> tuple[list[list[float]], Usage]:
        """Return one vector per text, in order. Each text is a request of its own, some of them at the same time."""
        vectors: list[list[float]] = [[] for _ in texts]
        used = 0
        left = iter(enumerate(texts))

        async def work() -> None:
            nonlocal used
            for place, text in left:
                vectors[place], tokens = await self._embed_one(model, text, http)
                used += tokens

        try:
            async with asyncio.TaskGroup() as workers:
                for _ in range(min(len(texts), _TEXTS_AT_ONCE)):
                    workers.create_task(work(), name="tanuki embed by Bedrock")
        except BaseExceptionGroup as group:  # the first failure has ended the others
            raise group.exceptions[0] from None
        return vectors, Usage(requests=len(texts), input_tokens=used)

    async def _embed_one(self, model: Model, text: str, http: Http) -> tuple[list[float], int]:
        base = _bedrock_models.foundation(model.name)
        dimensions = self._dimensions if model.shorten_to is None else model.shorten_to
        body = _bedrock_invoke.encode_embedding(base, text, dimensions=dimensions, normalize=self._normalize)
        reply = await self._post(http, model, "invoke", body)
        return _bedrock_invoke.vector_from(reply, provider=self.name, model=model.name)

    def _format(self, model: Model) -> _bedrock_invoke.Format | None:
        """The format of the model's family, where its description names one; None for Converse."""
        if model.wire_format in (None, "converse"):
            return None
        if (found := _bedrock_invoke.FORMATS.get(model.wire_format)) is None:
            known = ", ".join(["converse", *_bedrock_invoke.FORMATS])
            raise SettingsError(f"{model}: Bedrock has no wire_format {model.wire_format!r}; it has {known}")
        return found

    async def _post(self, http: Http, model: Model, action: str, body: bytes) -> Reply:
        """Make one exchange. Whatever is not a success is raised."""
        url, headers = await self._request(model, action, body)
        try:
            reply = await http.send("POST", url, headers=headers, body=body)
        except ProviderUnreachableError as error:
            raise ProviderUnreachableError(error.message, self.name, model.name) from error
        if reply.status != 200:
            raise self._error(reply, headers, model)
        return reply

    async def _stream(self, http: Http, model: Model, taken: Taken, body: bytes) -> AsyncGenerator[str | Completion]:
        url, headers = await self._request(model, "converse-stream", body)
        try:
            async with http.stream("POST", url, headers=headers, body=body) as answer:
                if answer.status != 200:
                    raise self._error(await whole_reply(answer), headers, model)
                found = _bedrock_stream.pieces_from(
                    answer, provider=self.name, model=model.name, by_tool=taken.structured == "tool"
                )
                async with aclosing(found) as pieces:
                    async for piece in pieces:
                        yield piece
        except ProviderUnreachableError as cut:
            raise ProviderUnreachableError(cut.message, self.name, model.name) from cut

    async def _request(self, model: Model, action: str, body: bytes) -> tuple[str, Headers]:
        return await self._account.request(
            "POST", "bedrock-runtime", f"/model/{quote(model.name, safe='')}/{action}", body
        )

    def _error(self, reply: Reply, headers: Headers, model: Model) -> ProviderError:
        reply = without(reply, secrets_in(headers))
        error = aws_error(reply, provider=self.name, model=model.name, region=self._account.known_region)
        if keys_have_ended(reply) and self._account.forget_keys():
            error.should_retry = True  # somebody may have logged in again
        return error
