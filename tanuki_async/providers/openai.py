"""OpenAI's Chat Completions and Embeddings, and every server that speaks the same format."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from urllib.parse import urlsplit

from tanuki_async._models import lookup
from tanuki_async._records import Limits, Model, Usage
from tanuki_async.abc import Http
from tanuki_async.providers._abilities import Abilities
from tanuki_async.providers._answers import vectors_from
from tanuki_async.providers._bodies import Bodies, encode_embedding
from tanuki_async.providers._chats import Chats, Form
from tanuki_async.providers._chunks import Chunks

__all__ = ["OpenAI", "OpenAICompatible"]


class OpenAICompatible(Chats):
    """A server that speaks OpenAI's format: vLLM, Ollama, llama.cpp, LM Studio, Groq, OpenRouter and many more.

    Sends only fields that such servers commonly know, and learns from a 400 which of them this one does not.
    `models` describes models by name, where the cautious assumptions should not hold.
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
    ) -> None:
        super().__init__(base_url, name=name, api_key=api_key, models=models, limits=limits, headers=headers)
        self._bodies = Bodies()
        self._chat = Form("/chat/completions", self._bodies, Chunks)

    def _form(self, model: Model) -> Form:
        return self._chat

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
        return Model(provider=self.name, name=name, instruction_role="developer", token_field="max_completion_tokens")

    def _assume(self, model: Model) -> Abilities:
        # A documented rule: a model that thinks takes no sampling fields.
        thinks = model.reasoning_effort not in (None, "none")
        return Abilities.of(model, dropped=frozenset({"temperature", "top_p"} if thinks else ()))

    def _account_headers(self) -> dict[str, str]:
        named = {"openai-organization": "OPENAI_ORG_ID", "openai-project": "OPENAI_PROJECT_ID"}
        return {header: value for header, variable in named.items() if (value := os.environ.get(variable))}
