"""One question, one answer, over HTTP: what all wire formats share that are asked with JSON and a key."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass

from tanuki_async._errors import AttachmentRefusedError, ProviderError, ProviderUnreachableError, RequestRejectedError
from tanuki_async._models import ANYTHING, lookup
from tanuki_async._records import Completion, Limits, Model, Reply, Request
from tanuki_async.abc import Http, Provider
from tanuki_async.providers._abilities import Abilities
from tanuki_async.providers._account import Account
from tanuki_async.providers._bodies import Bodies
from tanuki_async.providers._chunks import Chunks, pieces_from, whole_reply
from tanuki_async.providers._errors import error_from

logger = logging.getLogger("tanuki_async.providers")

_MOST_CONCESSIONS = 8
"""How many parameters one call may give up, one after the other."""


@dataclass(frozen=True, slots=True)
class Form:
    """How a question is asked and its answer read: where, in which words, with which events."""

    path: str
    bodies: Bodies
    events: type[Chunks]


class Chats(Account, Provider):
    """Asks models for answers, and learns from what a server refuses what it does not take.

    `models` describes models by name, where the table or cautious assumptions should not hold.
    """

    def __init__(
        self,
        base_url: str | None,
        *,
        name: str,
        api_key: str | None = None,
        models: Mapping[str, Model] | None = None,
        limits: Limits | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(base_url, api_key, headers)
        self.name = name
        self.limits = limits or Limits()
        self._models = dict(models or {})
        self._learned: dict[str, tuple[Model, Abilities]] = {}

    def model(self, name: str) -> Model:
        """Describe the model called `name`: as the user did, as the table does, or cautiously."""
        known = self._models.get(name) or lookup(self.name, name, retired=self._may_serve_retired())
        return known or self._unknown_model(name)

    @abstractmethod
    def _form(self, model: Model) -> Form:
        """Tell how a model is asked."""

    async def complete(self, request: Request, http: Http) -> Completion:
        """Ask once; a parameter that the server does not know is given up, for good, and the question repeated."""
        model = request.model
        form, headers = self._form(model), self._headers or self._make_headers()
        url = self._url(form.path)
        concessions = 0
        while True:
            abilities = self._abilities(model)
            body = form.bodies.encode(request, abilities)
            try:
                reply = await http.send("POST", url, headers=headers, body=body)
            except ProviderUnreachableError as cut:
                raise ProviderUnreachableError(cut.message, self.name, model.name) from cut
            if reply.status == 200:
                return form.events.read(reply, provider=self.name, model=model.name, secrets=self._secrets)
            error = self._error(reply, model)
            concessions += 1
            if concessions > _MOST_CONCESSIONS or not self._learn(model, abilities, error, body):
                raise await self._explained(error, http)

    async def stream(self, request: Request, http: Http) -> AsyncGenerator[str | Completion]:
        """Ask once, and yield the text as it comes, then the Completion. Servers that cannot stream answer at once."""
        model = request.model
        form, headers = self._form(model), self._headers or self._make_headers()
        url = self._url(form.path)
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

    async def _explained(self, error: ProviderError, http: Http) -> ProviderError:
        """Say more of what went wrong, where more can be found out."""
        return error

    def _may_serve_retired(self) -> bool:
        """Tell whether a model may still answer here that its maker retired."""
        return False

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
        return error_from(reply, provider=self.name, model=model.name, secrets=self._secrets, key_hint=self._key_hint())
