"""What one way of learning is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ParamSpec, Protocol, TypeAlias, TypeVar

from tanuki_async._distill.state import Task
from tanuki_async._records import Example, JsonValue
from tanuki_async.abc import Student
from tanuki_async.students import Verdict

P = ParamSpec("P")
R = TypeVar("R")


class RunSync(Protocol):
    """Runs a function in a thread, as `asyncio.to_thread` does."""

    async def __call__(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...


class Absent(Exception):  # noqa: N818  # no error: a normal outcome with its reason
    """A way of learning turned out not to be there; its learner says so from now on, and it is not tried again."""


class NotNow(Exception):  # noqa: N818  # no error: a normal outcome with its reason
    """Something stands in the way that may pass: a provider is ill, a budget is used up."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """One example to learn from. `inputs` are its arguments by name."""

    inputs: Mapping[str, JsonValue]
    output: JsonValue
    example: Example
    aligned: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """One task to be learnt in one way, now.

    `lessons` reads the examples, once. `number` counts trainings, so a name made of it is the same in every process.
    `alpha` is the chance of error that this way may spend. `left` are the places of the held-out inputs from which the
    cheaper students before it abstain, where there are any; only these it has to prove. `job` is a training that this
    way of learning has started before. `evaluating` tells all processes that agreement is being checked.
    """

    task: Task
    lessons: Callable[[], Awaitable[Sequence[Lesson]]]
    number: int
    seed: int
    alpha: float
    run_sync: RunSync
    evaluating: Callable[[], Awaitable[None]]
    left: frozenset[int] | None = None
    job: str | None = None
    polls: int = 0


@dataclass(frozen=True, slots=True)
class Pending:
    """A training that goes on elsewhere, to be looked at again after some seconds."""

    job: str
    reason: str
    seconds: float


class Learned(Protocol):
    """A trained student that has not proved itself yet."""

    @property
    def verdicts(self) -> Sequence[Verdict]:
        """What held-out inputs showed; each was answered by a student that had not seen it.

        None only of a student that was proved elsewhere, where there is nothing here to examine it on.
        """
        ...

    @property
    def tries(self) -> int:
        """Among how many candidates this one was chosen by such verdicts; they share one chance of error."""
        ...

    @property
    def model(self) -> str | None:
        """The model that the student asks, if it asks one."""
        ...

    def parameters(self, threshold: float) -> bytes:
        """Write the student that answers where it is at least as sure as `threshold`."""
        ...


Outcome: TypeAlias = Learned | Pending | str
"""A student, a training that goes on, or why nothing can be learnt from these lessons."""


class Learner(Protocol):
    """One way of learning. `name` tells it from others of its kind."""

    kind: str
    name: str

    def unavailable(self, task: Task) -> str | None:
        """Say why this task cannot be learnt in this way here, or None."""
        ...

    async def learn(self, course: Course) -> Outcome:
        """Learn. Cancelling stops it soon. May raise Absent or NotNow."""
        ...

    def load(self, parameters: bytes, task: Task) -> Student:
        """Read what `Learned.parameters` wrote. Blocks; StorageError where it is malformed."""
        ...
