"""A provider of models: what answers, trains and takes batches, and the connections that it is given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from tanuki_async._errors import ProviderError, RequestRejectedError
from tanuki_async._records import Completion, Decision, Job, Limits, Model, Reply, Request, Training, Usage


class Http(Protocol):
    """The shared connections of one open Tanuki."""

    async def send(self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None = None) -> Reply:
        """Exchange one request for one whole answer, whatever its status.

        Raises ProviderUnreachableError when there is no connection or it is cut. Has no deadline of its own: the
        caller's cancellation ends it, and closes the connection it used.
        """
        ...

    def stream(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None = None
    ) -> AbstractAsyncContextManager[Streamed]:
        """Exchange one request for an answer that is read as it comes, whatever its status.

        Raises, while it is read too, what `send` raises. Leaving before the end closes the connection.
        """
        ...


@dataclass(frozen=True, slots=True)
class Streamed:
    """One HTTP answer whose body is on its way. Header names are lower case."""

    status: int
    headers: Mapping[str, str]
    pieces: AsyncIterator[bytes]


class Tuning(ABC):
    """Trains models at a provider. Errors are ProviderErrors, as a Provider's; no retry and no wait.

    Nothing here ever starts what is billed by the minute.
    """

    serves: bool = True
    """Whether a trained model answers as soon as it is there, paid by the token; else something has to be started."""

    def trains(self, model: str) -> bool:
        """Tell whether a model can be trained here, as far as is known."""
        return True

    @abstractmethod
    async def start(self, training: Training, http: Http) -> Job:
        """Upload and start a training, unless one with its tag is there already: then return that one.

        Safe to call again after a timeout or a crash at any point: there is one job per tag in the end. Raises
        RequestRejectedError with `code` "training_not_available" where the vendor has closed training for this account.
        """

    @abstractmethod
    async def find(self, tag: str, http: Http) -> Job | None:
        """Look for the latest training with this tag."""

    @abstractmethod
    async def get(self, id: str, http: Http) -> Job:  # noqa: A002  # the provider's word
        """Return a training as it stands."""

    @abstractmethod
    async def cancel(self, id: str, http: Http) -> Job:  # noqa: A002
        """Ask for a training to end, and return it as it stands then."""

    @abstractmethod
    async def jobs(self, http: Http) -> list[Job]:
        """List the trainings of this account, the latest first."""

    async def events(self, id: str, http: Http) -> list[str]:  # noqa: A002
        """Return what the provider says of a training, a line each, oldest first."""
        return []


class Batches(ABC):
    """Answers many requests within a day, at about half the price. Errors as a Provider's; no retry and no wait."""

    @abstractmethod
    async def submit(self, requests: Mapping[str, Request], *, tag: str, http: Http) -> Job:
        """Send requests, each under a key of at most 64 of `A-Z a-z 0-9 _ -`, unless a batch with this tag is there."""

    @abstractmethod
    async def get(self, id: str, http: Http) -> Job:  # noqa: A002
        """Return a batch as it stands."""

    @abstractmethod
    async def cancel(self, id: str, http: Http) -> Job:  # noqa: A002
        """Ask for a batch to end, and return it as it stands then."""

    @abstractmethod
    async def find(self, tag: str, http: Http) -> Job | None:
        """Look for the latest batch with this tag."""

    @abstractmethod
    def results(self, job: Job, http: Http) -> AsyncIterator[tuple[str, Completion | ProviderError]]:
        """Yield what became of each request of a batch that has ended, in any order. What is missing was not asked."""


class Provider(ABC):
    """Speaks one wire format to one account.

    Holds no connections and belongs to no event loop, so one instance may serve several open Tanukis.
    Errors of the wire come out as ProviderError and its kin; anything else is a bug.
    """

    name: str
    """What stands before the colon in `"provider:model"`."""
    limits: Limits = Limits()
    embedding_batch: int = 128
    """How many texts one request for embeddings may hold; a server that takes fewer is found out."""
    embedding_tokens: int = 200_000
    """How many tokens these may have together."""
    tuning: Tuning | None = None
    """How models are trained there; None where they are not."""
    batches: Batches | None = None
    """How many requests are sent at once for later; None where that is not offered."""

    def model(self, name: str) -> Model:
        """Describe the model called `name`. An unknown one gets cautious assumptions, not an error."""
        return Model(provider=self.name, name=name)

    @abstractmethod
    async def complete(self, request: Request, http: Http) -> Completion:
        """Ask once. No retry and no wait: the pool does both.

        Raises RefusalError for a refusal and a RateLimitedError with `retry_after` in seconds where told. An answer
        that was cut off is a Completion with `truncated` set.
        What is attached to a turn is sent, or AttachmentRefusedError raised, upon which the next teacher is asked.
        """

    async def stream(self, request: Request, http: Http) -> AsyncGenerator[str | Completion]:
        """Ask once, and yield the text of the answer as it comes, in pieces; last of all, its Completion.

        Raises as `complete` does, at any point. By default the whole text is one piece, for servers that do not stream.
        """
        completion = await self.complete(request, http)
        yield completion.text
        yield completion

    async def decide(self, request: Request, http: Http) -> Decision | None:
        """Choose one answer of those that the request's schema allows, with probabilities.

        None where that is not offered, or the answers are no short list. Raises as `complete` does.
        """
        return None

    async def embed(self, model: Model, texts: Sequence[str], http: Http) -> tuple[Sequence[Sequence[float]], Usage]:
        """Return one vector per text, in order; an `array("f")` is handed on to numpy as it is.

        Asks for `model.shorten_to` dimensions where that is set and `model.shortening` is "sent".
        """
        raise RequestRejectedError("this provider has no embeddings", self.name, model.name)
