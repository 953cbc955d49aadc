"""What the models of one server turned out to take, learned from what it refuses."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from tanuki_async._errors import AttachmentRefusedError, ProviderError, RequestRejectedError
from tanuki_async._records import Attached, Model

logger = logging.getLogger("tanuki_async.providers")

MOST = 8
"""How many parameters one call may give up, one after the other."""


class Sent(Protocol):
    """What is sent to one model. Compared by identity where speed counts."""

    @property
    def untaken(self) -> frozenset[Attached]: ...
    def without(self, error: RequestRejectedError, body: bytes) -> tuple[Any, str] | None: ...


S = TypeVar("S", bound=Sent)


class Concessions(Generic[S]):
    """Remembers, by model, what is sent: at first what `assume` says, then less by each concession."""

    def __init__(self, provider: str, assume: Callable[[Model], S]) -> None:
        self._provider, self._assume = provider, assume
        self._learned: dict[str, tuple[Model, S]] = {}

    def of(self, model: Model) -> S:
        """Return what is sent to a model now."""
        known = self._learned.get(model.name)
        if known is None or (known[0] is not model and known[0] != model):
            known = self._learned[model.name] = (model, self._assume(model))
        return known[1]

    def learn(self, model: Model, sent: S, error: ProviderError, body: bytes) -> bool:
        """Give way to the server's complaint, if it is one that can be met; True if it makes sense to ask again.

        AttachmentRefusedError where the model takes no images or documents: from now on it is not asked to.
        """
        if not isinstance(error, RequestRejectedError):
            return False
        if self.of(model) is not sent:
            return True  # another call learned meanwhile; see whether that was it
        concession = sent.without(error, body)
        if concession is None:
            return False
        less, given_up = concession
        self._learned[model.name] = (model, less)
        if less.untaken != sent.untaken:
            reason = f"it takes no {given_up}, by its own words: {error.message}"
            raise AttachmentRefusedError(reason, self._provider, model.name, error.status, error.request_id) from error
        logger.warning("%s does not take %s; asking without it from now on", model, given_up)
        return True
