"""OpenAI's Chat Completions and Embeddings, and every server that speaks the same format."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from tanuki_async._errors import (
    ProviderError,
    ProviderUnreachableError,
    RequestRejectedError,
)
from tanuki_async._models import lookup
from tanuki_async._records import Completion, Decision, Limits, Model, Reply, Request, SchemaDialect, Usage
from tanuki_async.abc import Http, Provider
from tanuki_async.providers._abilities import Abilities
from tanuki_async.providers._account import Account
from tanuki_async.providers._answers import vectors_from
from tanuki_async.providers._bodies import Bodies, encode_embedding
from tanuki_async.providers._chunks import Chunks, pieces_from, whole_reply
from tanuki_async.providers._decisions import DECIDERS, DecisionBodies, completion_of, decision_from
from tanuki_async.providers._errors import error_from
from tanuki_async.providers._lists import about_a_model, model_names, what_is_there, with_more
from tanuki_async.providers._response_events import ResponseEvents
from tanuki_async.providers._responses import ResponseBodies
from tanuki_async.providers._servers import SERVERS, server_at

__all__ = ["OpenAI", "OpenAICompatible"]

logger = logging.getLogger("tanuki_async.providers")

SAMPLING = frozenset({"temperature", "top_p", "frequency_penalty", "presence_penalty"})
"""What a model does not take while it reasons."""
_MOST_CONCESSIONS = 8
"""How many parameters one call may give up, one after the other."""


@dataclass(frozen=True, slots=True)
class _Form:
    """One of the two forms in which a question is asked and answered."""

    path: str
    bodies: Bodies
    events: type[Chunks]


class OpenAICompatible(Account, Provider):
    """A server that speaks OpenAI's format: vLLM, Ollama, llama.cpp, LM Studio, Groq, OpenRouter and many more.

    Sends only fields that such servers commonly know, and learns from a 400 which of them this one does not.
    `models` describes models by name, where the cautious assumptions should not hold. `responses` asks through the
    Responses API instead of Chat Completions.
    """

    _embedding_encoding: str | None = None
    _decides: bool = False

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
    ) -> None:
        super().__init__(base_url, api_key, headers)
        self.name = name
        self.limits = limits or Limits()
        self._models = dict(models or {})
        self._learned: dict[str, tuple[Model, Abilities]] = {}
        self._responses = responses
        self._bodies = Bodies()
        self._forms = {
            "chat": _Form("/chat/completions", self._bodies, Chunks),
            "responses": _Form("/responses", ResponseBodies(), ResponseEvents),
        }

    @classmethod
    def known(cls, name: str) -> OpenAICompatible:
        """Make the provider of a well-known server, by its name in `SERVERS`. Key and address: see there."""
        server = SERVERS[name]
        made = OpenAICompatible(None, name=name)
        made._title, made._default_url, made._url_variable = server.title, server.url, f"{name.upper()}_BASE_URL"
        made._key_variable, made._needs_key = f"{name.upper()}_API_KEY", not server.local
        return made

    def model(self, name: str) -> Model:
        """Describe the model called `name`: as the user did, as the table does, or cautiously."""
        model = self._models.get(name) or lookup(self.name, name, retired=self._may_serve_retired())
        model = model or self._unknown_model(name)
        return replace(model, endpoint="responses") if self._responses else model

    async def complete(self, request: Request, http: Http) -> Completion:
        """Ask once; a parameter that the server does not know is given up, for good, and the question repeated."""
        model = request.model
        if self._decides and (decision := await self.decide(request, http)) is not None:
            return completion_of(decision, model.name)
        form = self._forms[model.endpoint]
        url, headers = self._url(form.path), self._headers or self._make_headers()
        concessions = 0
        while True:
            abilities = self._abilities(model)
            body = form.bodies.encode(request, abilities)
            reply = await self._send(http, url, headers, body, model)
            if reply.status == 200:
                return form.events.read(reply, provider=self.name, model=model.name, secrets=self._secrets)
            error = self._error(reply, model)
            concessions += 1
            if concessions > _MOST_CONCESSIONS or not self._learn(model, abilities, error, body):
                raise await self._explained(error, http)

    async def stream(self, request: Request, http: Http) -> AsyncGenerator[str | Completion]:
        """Ask once, and yield the text as it comes, then the Completion. Servers that cannot stream answer at once."""
        model = request.model
        form = self._forms[model.endpoint]
        url, headers = self._url(form.path), self._headers or self._make_headers()
        concessions = 0
        while True:
            abilities = self._abilities(model)
            body = form.bodies.streamed(form.bodies.encode(request, abilities), abilities)
            try:
                async with http.stream("POST", url, headers=headers, body=body) as answer:
                    if answer.status == 200:
                        events = form.events(
                            answer.headers, provider=self.name, model=model.name, secrets=self._secrets
                        )
                        async with aclosing(pieces_from(answer, events)) as pieces:
                            async for piece in pieces:
                                yield piece
                        return
                    error = self._error(await whole_reply(answer), model)
            except ProviderUnreachableError as cut:
                raise ProviderUnreachableError(cut.message, self.name, model.name) from cut
            concessions += 1
            if concessions > _MOST_CONCESSIONS or not self._learn(model, abilities, error, body):
                raise await self._explained(error, http)

    async def embed(self, model: Model, texts: Sequence[str], http: Http) -> tuple[list[list[float]], Usage]:
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

    def _may_serve_retired(self) -> bool:
        """Tell whether a model may still answer here that its maker retired."""
        return False

    def _unknown_model(self, name: str) -> Model:
        server = server_at(self._base())
        return Model(provider=self.name, name=name, token_field=server.token_field if server else "max_tokens")

    def _assume(self, model: Model) -> Abilities:
        return Abilities.of(model)

    def _abilities(self, model: Model) -> Abilities:
        known = self._learned.get(model.name)
        if known is None or (known[0] is not model and known[0] != model):
            known = self._learned[model.name] = (model, self._assume(model))
        return known[1]

    def _learn(self, model: Model, sent: Abilities, error: ProviderError, body: bytes) -> bool:
        """Give way to the server's complaint, if it is one that can be met; True if it makes sense to ask again."""
        if not isinstance(error, RequestRejectedError):
            return False
        if self._abilities(model) is not sent:
            return True  # another call learned meanwhile; see whether that was it
        concession = sent.without(error, body)
        if concession is None:
            return False
        self._learned[model.name] = (model, concession[0])
        logger.warning("%s does not take %s; asking without it from now on", model, concession[1])
        return True

    async def _send(self, http: Http, url: str, headers: Mapping[str, str], body: bytes, model: Model) -> Reply:
        try:
            return await http.send("POST", url, headers=headers, body=body)
        except ProviderUnreachableError as error:
            raise ProviderUnreachableError(error.message, self.name, model.name) from error

    def _error(self, reply: Reply, model: Model) -> ProviderError:
        return error_from(
            reply,
            provider=self.name,
            model=model.name,
            secrets=self._secrets,
            key_hint=f"the key is from {self._key_variable}" if self._key_variable and not self._api_key else "",
        )


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
            base_url, name="openai", api_key=api_key, models=models, limits=limits, headers=headers, responses=responses
        )
        self._decides = decisions
        self._questions = DecisionBodies()

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
            return replace(
                base, name=name, schema_dialect=dialect, suggested=None,
                price_input=None, price_cached=None, price_output=None,
            )  # fmt: skip
        if not self._is_openai():
            return replace(super()._unknown_model(name), schema_dialect=dialect)
        return Model(
            provider=self.name,
            name=name,
            schema_dialect=dialect,
            instruction_role="developer",
            token_field="max_completion_tokens",
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
