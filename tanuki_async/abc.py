"""What a user may implement: a provider of models, a place for data, a student.

Each class's docstrings are its contract; the suites in `tests/contracts/` check every implementation against them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from tanuki_async._errors import ProviderError, RequestRejectedError, StorageError
from tanuki_async._records import (
    Attachment,
    Completion,
    Decision,
    Head,
    Job,
    JsonValue,
    Limits,
    Model,
    Reply,
    Request,
    Training,
    Turn,
    Usage,
)

__all__ = [
    "Appended",
    "Attachment",
    "Batches",
    "Completion",
    "Decision",
    "Finding",
    "Head",
    "Http",
    "Job",
    "Lease",
    "Provider",
    "Reply",
    "Request",
    "Storage",
    "Streamed",
    "Student",
    "Training",
    "Tuning",
    "Turn",
    "Versioned",
]


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


@dataclass(frozen=True, slots=True)
class Appended:
    """What became of a batch of lines."""

    written: int
    duplicates: int


@dataclass(frozen=True, slots=True)
class Versioned:
    """A small value and the version that a `put` must name to replace it."""

    value: bytes
    version: str


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to act on something until it runs out. `token` grows with each holder, so a late one is recognised."""

    key: str
    owner: str
    token: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something wrong with what is kept, at a name, a key or a file. `mended` says what was done about it."""

    place: str
    what: str
    mended: str = ""


class Storage(ABC):
    """Keeps lines under names and small versioned values under keys; edits what it has written in `rewrite` alone.

    Names and keys are made of `A-Z a-z 0-9 . _ -` and `/`. Every failure is a StorageError. Safe for many tasks,
    processes and event loops at once. `open` before use; `aclose` may be called twice.
    """

    address: str | None = None
    """What names this place to all processes on a machine, without secrets; None: lines never wait for it on disk."""
    patience: float = 0.0
    """Seconds that lines may wait in a local journal, so that one write carries many; where each write costs money."""

    @abstractmethod
    async def open(self) -> None:
        """Make ready, creating what is missing. Raises StorageError when the place cannot be used."""

    @abstractmethod
    async def aclose(self) -> None:
        """Let go of files and connections. What was appended is safe already."""

    @abstractmethod
    async def append(self, name: str, lines: Sequence[bytes], *, latest: bool = False) -> Appended:
        """Add lines in order; they are durable when this returns.

        A line whose example is there already (see `example_key`) is left out, also when another process wrote it.
        By default that is decided by a filter that may, for fewer than 1 % of distinct lines, be wrong. With `latest`
        it is exact, and a line is left out only if the newest line with the same arguments has the same output.
        """

    @abstractmethod
    def scan(self, name: str, *, start: int = 0) -> AsyncIterator[list[bytes]]:
        """Read lines in the order of appending, in batches, leaving out the first `start`. Torn lines never appear.

        Stops at what was there when it began, or later.
        """

    @abstractmethod
    async def count(self, name: str) -> int:
        """Return how many lines `name` has."""

    @abstractmethod
    async def names(self, prefix: str = "") -> list[str]:
        """List the names that have lines, sorted."""

    @abstractmethod
    async def get(self, key: str) -> Versioned | None:
        """Return the value of `key`, or None."""

    @abstractmethod
    async def put(self, key: str, value: bytes, *, version: str | None) -> str | None:
        """Replace the value if its version is still `version` (None: if there is none yet).

        Returns the new version, or None when somebody else was first. Durable when it returns.
        """

    @abstractmethod
    async def keys(self, prefix: str = "") -> list[str]:
        """List the keys that have a value, sorted."""

    @abstractmethod
    async def claim(self, key: str, owner: str, *, seconds: float) -> Lease | None:
        """Take or renew the lease `key`, or return None while another owner holds it. Runs out by itself."""

    @abstractmethod
    async def release(self, lease: Lease) -> None:
        """Give a lease back early. Harmless if it has run out or passed to another."""

    async def rewrite(self, name: str, change: Callable[[list[bytes]], list[bytes]]) -> int:
        """Leave out the lines that `change`, given batch after batch in order, leaves out; return how many.

        All at once or not at all, for every process; what is known of the lines follows. `change` is a pure function
        and may run in a thread. Raises StorageError where nothing can be taken back, as by default.
        """
        raise StorageError(f"{type(self).__name__} cannot take back what it has written")

    async def remove(self, key: str) -> None:
        """Take the value of `key` away, whatever its version. By default an empty one takes its place."""
        while (held := await self.get(key)) is not None and held.value:
            if await self.put(key, b"", version=held.version) is not None:
                return

    async def rebuild(self, name: str) -> int:
        """Derive anew from the lines all that is kept beside them (filters, counts), and return how many there are.

        By default nothing is kept beside them.
        """
        return await self.count(name)

    async def inspect(self, *, repair: bool = False) -> list[Finding]:
        """Look for what only this kind of storage can have wrong; mend it where asked to, and delete nothing.

        What has to go is moved aside: lines under `<name>.damaged`. By default there is nothing to look for.
        """
        return []


class Student(ABC):
    """A trained answerer of one function, cheaper than its teacher."""

    @abstractmethod
    async def answer(self, inputs: Mapping[str, JsonValue]) -> JsonValue | Abstention:
        """Answer one call, given its arguments by name, or abstain when not sure enough."""


class Abstention:
    """The student's way to say: ask the teacher. There is one, ABSTAIN."""

    def __repr__(self) -> str:
        return "ABSTAIN"


ABSTAIN = Abstention()
