"""One question, one answer, over HTTP: what all wire formats share that are asked with JSON and a key."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass

from tanuki_async._errors import ProviderError, ProviderUnreachableError
from tanuki_async._models import ANYTHING, lookup
from tanuki_async._records import Completion, Limits, Model, Reply, Request
from tanuki_async.abc import Http, Provider
from tanuki_async.providers._abilities import Abilities
from tanuki_async.providers._account import Account
from tanuki_async.providers._bodies import Bodies
from tanuki_async.providers._chunks import Chunks, pieces_from, whole_reply
from tanuki_async.providers._concessions import MOST, Concessions
from tanuki_async.providers._errors import error_from


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
        self._concessions = Concessions[Abilities](name, self._assume)
        self._abilities = self._concessions.of

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
            if concessions > MOST or not self._concessions.learn(model, abilities, error, body):
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
            if concessions > MOST or not self._concessions.learn(model, abilities, error, body):
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

    async def _send(self, http: Http, url: str, headers: Mapping[str, str], body: bytes, model: Model) -> Reply:
        try:
            return await http.send("POST", url, headers=headers, body=body)
        except ProviderUnreachableError as error:
            raise ProviderUnreachableError(error.message, self.name, model.name) from error

    def _error(self, reply: Reply, model: Model) -> ProviderError:
        return error_from(reply, provider=self.name, model=model.name, secrets=self._secrets, key_hint=self._key_hint())
