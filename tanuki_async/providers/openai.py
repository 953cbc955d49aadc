"""OpenAI's Chat Completions and Embeddings, and every server that speaks the same format."""

from __future__ import annotations

import logging
import os
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from tanuki_async._errors import ProviderError
from tanuki_async._models import ANYTHING, lookup, tuned_prices
from tanuki_async._records import Completion, Decision, Limits, Model, Request, SchemaDialect, Usage
from tanuki_async.abc import Batches, Http, Tuning
from tanuki_async.providers._abilities import Abilities
from tanuki_async.providers._answers import vectors_from
from tanuki_async.providers._bodies import Bodies, encode_embedding
from tanuki_async.providers._chats import Chats, Form
from tanuki_async.providers._chunks import Chunks
from tanuki_async.providers._decisions import DECIDERS, DecisionBodies, completion_of, decision_from
from tanuki_async.providers._endpoints import Endpoints
from tanuki_async.providers._lists import about_a_model, model_names, what_is_there, with_more
from tanuki_async.providers._openai_batches import OpenAIBatches
from tanuki_async.providers._openai_tuning import OpenAITuning
from tanuki_async.providers._response_events import ResponseEvents
from tanuki_async.providers._responses import ResponseBodies
from tanuki_async.providers._servers import SERVERS, server_at

__all__ = ["OpenAI", "OpenAICompatible"]

logger = logging.getLogger("tanuki_async.providers")

SAMPLING = frozenset({"temperature", "top_p", "frequency_penalty", "presence_penalty"})
"""What a model does not take while it reasons."""


class OpenAICompatible(Chats):
    """A server that speaks OpenAI's format: vLLM, Ollama, llama.cpp, LM Studio, Groq, OpenRouter and many more.

    Sends only fields that such servers commonly know, and learns from a 400 which of them this one does not.
    `models` describes models by name, where the cautious assumptions should not hold. `responses` asks through the
    Responses API instead of Chat Completions. `jobs` tells that the server has OpenAI's endpoints for fine-tuning and
    batches as well.
    """

    _title = "an OpenAI-compatible server"
    _embedding_encoding: str | None = None

    def __init__(
        self,
        base_url: str | None,
        *,
        name: str = "openai_compatible",
        api_key: str | None = None,
        models: Mapping[str, Model] | None = None,
        limits: Limits | None = None,
        headers: Mapping[str, str] | None = None,
        responses: bool = False,
        jobs: bool = False,
    ) -> None:
        super().__init__(base_url, name=name, api_key=api_key, models=models, limits=limits, headers=headers)
        self._responses = responses
        self._bodies = Bodies()
        self._forms = {
            "chat": Form("/chat/completions", self._bodies, Chunks),
            "responses": Form("/responses", ResponseBodies(), ResponseEvents),
        }
        if jobs:
            self.tuning, self.batches = self._jobs()

    @classmethod
    def known(cls, name: str) -> OpenAICompatible:
        """Make the provider of a well-known server, by its name in `SERVERS`. Key and address: see there."""
        server = SERVERS[name]
        made = OpenAICompatible(None, name=name)
        made._title, made._default_url, made._url_variable = server.title, server.url, f"{name.upper()}_BASE_URL"
        made._key_variable, made._needs_key = f"{name.upper()}_API_KEY", not server.local
        return made

    def _written(self, argument: str) -> str:
        if type(self) is not OpenAICompatible or self._default_url is None:
            return super()._written(argument)
        return f"Tanuki(providers=[OpenAICompatible({self._default_url!r}, name={self.name!r}, {argument})])"

    def model(self, name: str) -> Model:
        model = super().model(name)
        return replace(model, endpoint="responses") if self._responses else model

    def _form(self, model: Model) -> Form:
        return self._forms[model.endpoint]

    def _jobs(self) -> tuple[Tuning, Batches]:
        """Make what trains models and sends batches here."""
        endpoints = self._endpoints()
        return OpenAITuning(endpoints, strict=False), OpenAIBatches(endpoints, self._encode)

    def _endpoints(self) -> Endpoints:
        return Endpoints(self.name, self._base, lambda: self._headers or self._make_headers(), lambda: self._secrets)

    def _encode(self, request: Request) -> bytes:
        return self._bodies.encode(request, self._abilities(request.model))

    async def embed(self, model: Model, texts: Sequence[str], http: Http) -> tuple[Sequence[Sequence[float]], Usage]:
        """Return one vector per text, in order. All texts travel in one request."""
        if not texts:
            return [], Usage()
        url, headers = self._url("/embeddings"), self._headers or self._make_headers()
        body = encode_embedding(model, list(texts), self._embedding_encoding)
        reply = await self._send(http, url, headers, body, model)
        if reply.status != 200:
            raise await self._explained(self._error(reply, model), http)
        return vectors_from(reply, len(texts), provider=self.name, model=model.name, secrets=self._secrets)

    async def models(self, http: Http) -> list[str]:
        """List the names of the models that the server has."""
        reply = await http.send("GET", self._url("/models"), headers=self._headers or self._make_headers())
        if reply.status != 200:
            raise self._error(reply, Model(provider=self.name, name=""))
        return model_names(reply)

    async def _explained(self, error: ProviderError, http: Http) -> ProviderError:
        """Add to a 404 what the server has instead, or doubt the base URL."""
        if error.status != 404 or self._is_openai():
            return error
        if not about_a_model(error):
            return with_more(error, f"is {self._base().partition('?')[0]} the base URL? Most end in /v1")
        try:
            return with_more(error, what_is_there(error.model, await self.models(http)))
        except ProviderError:
            return error

    def _is_openai(self) -> bool:
        return False

    def _unknown_model(self, name: str) -> Model:
        server = server_at(self._base())
        return replace(super()._unknown_model(name), token_field=server.token_field if server else "max_tokens")


class OpenAI(OpenAICompatible):
    """OpenAI itself. Key, address, organisation and project come from the environment where they are not given.

    `responses` asks through the Responses API, which has no `seed`, no `stop` and no penalties: those are not sent.
    `decisions` asks gpt-6-luna through the Decisions API, a beta, where the answer is one of a short list: `bool`,
    `Literal`, `Enum`, a small range of integers, and these with None.
    """

    _title = "OpenAI"
    _key_variable = "OPENAI_API_KEY"
    _url_variable = "OPENAI_BASE_URL"
    _default_url = "https://api.openai.com/v1"
    _embedding_encoding = "base64"
    embedding_batch = 2_048
    embedding_tokens = 300_000

    def __init__(
        self,
        api_key: str | None = None,
        base_url: str | None = None,
        *,
        models: Mapping[str, Model] | None = None,
        limits: Limits | None = None,
        headers: Mapping[str, str] | None = None,
        responses: bool = False,
        decisions: bool = False,
    ) -> None:
        super().__init__(
            base_url,
            name="openai",
            api_key=api_key,
            models=models,
            limits=limits,
            headers=headers,
            responses=responses,
            jobs=True,
        )
        self._decides = decisions
        self._questions = DecisionBodies()

    def _jobs(self) -> tuple[Tuning, Batches]:
        endpoints = self._endpoints()
        return OpenAITuning(endpoints, strict=True), OpenAIBatches(endpoints, self._encode)

    # Not `async`: who does not decide would pay for one frame more. Pyright knows only one kind of coroutine.
    def complete(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, request: Request, http: Http
    ) -> Coroutine[Any, Any, Completion]:
        return self._decided(request, http) if self._decides else super().complete(request, http)

    async def _decided(self, request: Request, http: Http) -> Completion:
        decision = await self.decide(request, http)
        return (
            await super().complete(request, http) if decision is None else completion_of(decision, request.model.name)
        )

    async def decide(self, request: Request, http: Http) -> Decision | None:
        """Let the model choose, if `decisions` is on. Where it cannot, it is asked in writing from then on."""
        model = request.model
        asked = self._questions.encode(request) if self._decides and model.name in DECIDERS else None
        if asked is None:
            return None
        question, body = asked
        headers = self._headers or self._make_headers()
        reply = await self._send(http, self._url("/decisions"), headers, body, model)
        if reply.status == 200:
            found = decision_from(reply, question, provider=self.name, model=model.name, secrets=self._secrets)
            logger.debug("%s(): %s decided: %s", request.head.function, model, found.probabilities)
            return found
        error = self._error(reply, model)
        if reply.status in (403, 404, 405):
            self._decides = False
        elif reply.status in (400, 422):
            self._questions.give_up(request.head)
        else:
            raise error
        logger.warning("%s(): no decision, so an answer in writing: %s", request.head.function, error)
        return None

    def _unknown_model(self, name: str) -> Model:
        tuned = name.startswith("ft:")
        dialect: SchemaDialect = "openai_strict_ft" if tuned else "openai_strict"
        if tuned and (base := lookup(self.name, name.split(":")[1], retired=self._may_serve_retired())):
            price_input, price_cached, price_output = tuned_prices(base.name)
            return replace(
                base, name=name, schema_dialect=dialect, suggested=None,
                price_input=price_input, price_cached=price_cached, price_output=price_output,
            )  # fmt: skip
        if not self._is_openai():
            return replace(super()._unknown_model(name), schema_dialect=dialect)
        return Model(
            provider=self.name,
            name=name,
            schema_dialect=dialect,
            instruction_role="developer",
            token_field="max_completion_tokens",
            attachments=ANYTHING,
        )

    def _may_serve_retired(self) -> bool:
        return not self._is_openai()

    def _is_openai(self) -> bool:
        """Tell OpenAI and Azure from some other server behind OPENAI_BASE_URL."""
        return (urlsplit(self._base()).hostname or "").endswith((".openai.com", ".azure.com"))

    def _assume(self, model: Model) -> Abilities:
        thinks = model.reasoning_effort not in (None, "none")
        without_effort = model.sampling == "without_effort" and model.reasoning_effort != "none"
        refuses = thinks or model.sampling == "never" or without_effort
        return Abilities.of(model, dropped=SAMPLING if refuses else frozenset())

    def _account_headers(self) -> dict[str, str]:
        named = {"openai-organization": "OPENAI_ORG_ID", "openai-project": "OPENAI_PROJECT_ID"}
        return {header: value for header, variable in named.items() if (value := os.environ.get(variable))}
