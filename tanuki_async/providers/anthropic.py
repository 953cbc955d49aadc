"""Anthropic's own Messages API."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace

from tanuki_async._models import lookup
from tanuki_async._records import Limits, Model
from tanuki_async.providers._abilities import Abilities
from tanuki_async.providers._chats import Chats, Form
from tanuki_async.providers._claude import ClaudeAbilities
from tanuki_async.providers._message_batches import MessageBatches
from tanuki_async.providers._message_bodies import MessageBodies
from tanuki_async.providers._message_events import MessageEvents

__all__ = ["Anthropic"]

VERSION = "2026-10-21"
_NO_MODEL = Model(provider="anthropic", name="")
_DATED = re.compile(r"-20\d{6}$|-latest$")


class Anthropic(Chats):
    """Anthropic. Key and address come from ANTHROPIC_API_KEY and ANTHROPIC_BASE_URL where they are not given.

    `auth_token` or ANTHROPIC_AUTH_TOKEN is for gateways that want a bearer token; a key goes before it. What is the
    same in all prompts of a function is marked to be cached there. Its models take no sampling parameters:
    `temperature` and the like are left out, with a warning. It offers no embeddings.
    """

    _title = "Anthropic"
    _key_variable = "ANTHROPIC_API_KEY"
    _url_variable = "ANTHROPIC_BASE_URL"
    _default_url = "https://api.anthropic.com"

    def __init__(
        self,
        api_key: str | None = None,
        base_url: str | None = None,
        *,
        auth_token: str | None = None,
        models: Mapping[str, Model] | None = None,
        limits: Limits | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(base_url, name="anthropic", api_key=api_key, models=models, limits=limits, headers=headers)
        self._auth_token = auth_token
        self._messages = Form("/v1/messages", MessageBodies(), MessageEvents)
        self.batches = MessageBatches(
            address=lambda path: (self._address(path), self._headers or self._make_headers()),
            body=lambda request: self._messages.bodies.encode(request, self._abilities(request.model)),
            failure=lambda reply: self._error(reply, _NO_MODEL),
            secrets=lambda: self._secrets,
        )

    def _form(self, model: Model) -> Form:
        return self._messages

    def _assume(self, model: Model) -> Abilities:
        return ClaudeAbilities.assumed(model)

    def _unknown_model(self, name: str) -> Model:
        if (undated := _DATED.sub("", name)) != name and (known := lookup(self.name, undated)):
            return replace(known, name=name)
        return replace(super()._unknown_model(name), context_window=200_000)

    def _base(self) -> str:
        return super()._base().removesuffix("/v1")  # as other providers' addresses end

    def _authorization(self) -> dict[str, str]:
        if (self._api_key is not None or self._auth_token is None) and (key := self._key()):
            return {"x-api-key": key}
        if token := (self._auth_token or os.environ.get("ANTHROPIC_AUTH_TOKEN") or "").strip():
            return {"authorization": f"Bearer {token}"}
        raise self._no_key()

    def _key_variables(self) -> str:
        return f"{self._key_variable} or ANTHROPIC_AUTH_TOKEN"

    def _key_source(self) -> str | None:
        if self._auth_token is not None:
            return None
        return super()._key_source() if self._key() else "ANTHROPIC_AUTH_TOKEN"

    def _account_headers(self) -> dict[str, str]:
        return {"anthropic-version": VERSION}
