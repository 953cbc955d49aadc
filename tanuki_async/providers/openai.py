"""OpenAI's Chat Completions and Embeddings, and every server that speaks the same format."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import ClassVar
from urllib.parse import urlsplit

from tanuki_async._errors import (
    AttachmentRefusedError,
    ProviderError,
    ProviderUnreachableError,
    RequestRejectedError,
    SettingsError,
    clip,
)
from tanuki_async._models import ANYTHING, lookup
from tanuki_async._records import Completion, Limits, Model, Reply, Request, Usage
from tanuki_async._version import __version__
from tanuki_async.abc import Http, Provider
from tanuki_async.providers._abilities import Abilities
from tanuki_async.providers._answers import completion_from, vectors_from
from tanuki_async.providers._bodies import Bodies, encode_embedding, streamed
from tanuki_async.providers._chunks import pieces_from, whole_reply
from tanuki_async.providers._errors import error_from
from tanuki_async.providers._secrets import Headers, secrets_in

__all__ = ["OpenAI", "OpenAICompatible"]

logger = logging.getLogger("tanuki_async.providers")

_MOST_CONCESSIONS = 8
"""How many parameters one call may give up, one after the other."""


class OpenAICompatible(Provider):
    """A server that speaks OpenAI's format: vLLM, Ollama, llama.cpp, LM Studio, Groq, OpenRouter and many more.

    Sends only fields that such servers commonly know, and learns from a 400 which of them this one does not.
    `models` describes models by name, where the cautious assumptions should not hold.
    """

    _title: ClassVar[str] = "an OpenAI-compatible server"
    _key_variable: ClassVar[str | None] = None
    _url_variable: ClassVar[str | None] = None
    _default_url: ClassVar[str | None] = None
    _embedding_encoding: ClassVar[str | None] = None

    def __init__(
        self,
        base_url: str | None,
        *,
        name: str = "openai_compatible",
        api_key: str | None = None,
        models: Mapping[str, Model] | None = None,
        limits: Limits | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.limits = limits or Limits()
        self._base_url = None if base_url is None else check_url(base_url)
        self._api_key = api_key
        self._models = dict(models or {})
        self._extra_headers = dict(headers or {})
        self._headers: Headers | None = None
        self._secrets: tuple[str, ...] = ()
        self._urls: dict[str, str] = {}
        self._learned: dict[str, tuple[Model, Abilities]] = {}
        self._bodies = Bodies()

    def __repr__(self) -> str:
        where = f"base_url={self._base_url.partition('?')[0]!r}" if self._base_url else ""
        return f"{type(self).__name__}({where})"

    def model(self, name: str) -> Model:
        """Describe the model called `name`: as the user did, as the table does, or cautiously."""
        known = self._models.get(name) or lookup(self.name, name)
        return known or self._unknown_model(name)

    async def complete(self, request: Request, http: Http) -> Completion:
        """Ask once; a parameter that the server does not know is given up, for good, and the question repeated."""
        url, headers = self._url("/chat/completions"), self._headers or self._make_headers()
        model = request.model
        concessions = 0
        while True:
            abilities = self._abilities(model)
            body = self._bodies.encode(request, abilities)
            reply = await self._send(http, url, headers, body, model)
            if reply.status == 200:
                return completion_from(reply, provider=self.name, model=model.name, secrets=self._secrets)
            error = self._error(reply, model)
            concessions += 1
            if concessions > _MOST_CONCESSIONS or not self._learn(model, abilities, error, body):
                raise error

    async def stream(self, request: Request, http: Http) -> AsyncGenerator[str | Completion]:
        """Ask once, and yield the text as it comes, then the Completion. Servers that cannot stream answer at once."""
        url, headers = self._url("/chat/completions"), self._headers or self._make_headers()
        model = request.model
        concessions = 0
        while True:
            abilities = self._abilities(model)
            body = streamed(self._bodies.encode(request, abilities), abilities)
            try:
                async with http.stream("POST", url, headers=headers, body=body) as answer:
                    if answer.status == 200:
                        found = pieces_from(answer, provider=self.name, model=model.name, secrets=self._secrets)
                        async with aclosing(found) as pieces:
                            async for piece in pieces:
                                yield piece
                        return
                    error = self._error(await whole_reply(answer), model)
            except ProviderUnreachableError as cut:
                raise ProviderUnreachableError(cut.message, self.name, model.name) from cut
            concessions += 1
            if concessions > _MOST_CONCESSIONS or not self._learn(model, abilities, error, body):
                raise error

    async def embed(self, model: Model, texts: Sequence[str], http: Http) -> tuple[list[list[float]], Usage]:
        """Return one vector per text, in order. All texts travel in one request."""
        if not texts:
            return [], Usage()
        url, headers = self._url("/embeddings"), self._headers or self._make_headers()
        body = encode_embedding(model, list(texts), self._embedding_encoding)
        reply = await self._send(http, url, headers, body, model)
        if reply.status != 200:
            raise self._error(reply, model)
        return vectors_from(reply, len(texts), provider=self.name, model=model.name, secrets=self._secrets)

    def _unknown_model(self, name: str) -> Model:
        return Model(provider=self.name, name=name, attachments=ANYTHING)

    def _assume(self, model: Model) -> Abilities:
        return Abilities.of(model)

    def _abilities(self, model: Model) -> Abilities:
        known = self._learned.get(model.name)
        if known is None or (known[0] is not model and known[0] != model):
            known = self._learned[model.name] = (model, self._assume(model))
        return known[1]

    def _learn(self, model: Model, sent: Abilities, error: ProviderError, body: bytes) -> bool:
        """Give way to the server's complaint, if it is one that can be met; True if it makes sense to ask again.

        AttachmentRefusedError where the model takes no images or documents: from now on it is not asked to.
        """
        if not isinstance(error, RequestRejectedError):
            return False
        if self._abilities(model) is not sent:
            return True  # another call learned meanwhile; see whether that was it
        concession = sent.without(error, body)
        if concession is None:
            return False
        self._learned[model.name] = (model, concession[0])
        if concession[0].untaken != sent.untaken:
            reason = f"it takes no {concession[1]}, by its own words: {error.message}"
            raise AttachmentRefusedError(reason, self.name, model.name, error.status, error.request_id) from error
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

    def _key(self) -> str | None:
        if self._api_key is not None:
            return self._api_key.strip()
        return (os.environ.get(self._key_variable) or "").strip() or None if self._key_variable else None

    def _url(self, path: str) -> str:
        url = self._urls.get(path)
        if url is None:
            start, mark, query = self._base().partition("?")
            url = self._urls[path] = start.rstrip("/") + path + mark + query
        return url

    def _base(self) -> str:
        if self._base_url is None:
            self._base_url = self._base_from_environment()
        return self._base_url

    def _base_from_environment(self) -> str:
        told = os.environ.get(self._url_variable) if self._url_variable else None
        if base := told or self._default_url:
            return check_url(base)
        raise SettingsError(
            f"no address for {self._title}: set {self._url_variable}, or pass {type(self).__name__}(base_url=…)"
        )

    def _make_headers(self) -> Headers:
        headers = Headers({"content-type": "application/json", "user-agent": f"tanuki_async/{__version__}"})
        headers |= self._authorization() | self._account_headers()
        headers |= {name.lower(): value for name, value in self._extra_headers.items()}
        if wrong := _unsendable(headers):
            source = self._key_variable or "api_key" if wrong == "authorization" else f"the header {wrong!r}"
            raise SettingsError(f"{source} has characters that cannot be sent, such as a line break or an accent")
        self._headers, self._secrets = headers, secrets_in(headers)
        return headers

    def _authorization(self) -> dict[str, str]:
        if key := self._key():
            return {"authorization": f"Bearer {key}"}
        if self._key_variable:
            raise SettingsError(
                f"no API key for {self._title}: set {self._key_variable}, or pass {type(self).__name__}(api_key=…); "
                "to try without a key, run `tanuki demo`"
            )
        return {}

    def _account_headers(self) -> dict[str, str]:
        return {}


class OpenAI(OpenAICompatible):
    """OpenAI itself. Key, address, organisation and project come from the environment where they are not given."""

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
    ) -> None:
        super().__init__(base_url, name="openai", api_key=api_key, models=models, limits=limits, headers=headers)

    def _unknown_model(self, name: str) -> Model:
        if name.startswith("ft:") and (base := lookup(self.name, name.split(":")[1])):
            return replace(base, name=name, price_input=None, price_cached=None, price_output=None)
        host = urlsplit(self._base()).hostname or ""
        if not host.endswith((".openai.com", ".azure.com")):  # some other server behind OPENAI_BASE_URL
            return super()._unknown_model(name)
        return Model(
            provider=self.name,
            name=name,
            instruction_role="developer",
            token_field="max_completion_tokens",
            attachments=ANYTHING,
        )

    def _assume(self, model: Model) -> Abilities:
        # A documented rule: a model that thinks takes no sampling fields.
        thinks = model.reasoning_effort not in (None, "none")
        return Abilities.of(model, dropped=frozenset({"temperature", "top_p"} if thinks else ()))

    def _account_headers(self) -> dict[str, str]:
        named = {"openai-organization": "OPENAI_ORG_ID", "openai-project": "OPENAI_PROJECT_ID"}
        return {header: value for header, variable in named.items() if (value := os.environ.get(variable))}


def _unsendable(headers: Mapping[str, str]) -> str | None:
    lines = ((name, f"{name}{value}") for name, value in headers.items())
    return next((name for name, line in lines if not (line.isascii() and line.isprintable())), None)


def check_url(url: str) -> str:
    """Return `url` without a slash at its end. SettingsError for one that is not http or https."""
    url = url.strip().rstrip("/")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingsError(f"a base URL looks like 'https://host/v1', not {clip(url)!r}")
    if parts.username or parts.password:
        raise SettingsError("a base URL cannot hold a user name or password; pass api_key= or headers=")
    return url
