"""What is to be learnt, and how far it has come: small values in storage, changed one transition at a time."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

from tanuki_async._distill.bench import Bench
from tanuki_async._distill.evaluate import Audits
from tanuki_async._errors import StorageError
from tanuki_async._records import JsonValue

Phase = Literal["collecting", "training", "evaluating", "serving", "reverted"]
InputsOf: TypeAlias = Callable[[Sequence[JsonValue], Mapping[str, JsonValue]], Mapping[str, JsonValue]]
Match: TypeAlias = Callable[[JsonValue, JsonValue], bool]
Embed: TypeAlias = Callable[[Sequence[str]], Awaitable[Mapping[str, Sequence[float]]]]

VERSION = 2
READABLE = (1, 2)
"""Version 1 had no jobs and no models."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One function to be learnt, with what its decorator said about learning.

    `inputs_of` turns the recorded arguments into inputs by name. `match` tells whether two outputs, as JSON, agree;
    None means that they are equal. `student_model` is a way of learning or several, cheapest first. `bench` is where
    students that are models are asked; None where there are none. `embed` returns what the model of a function that
    embeds makes of texts, as far as it takes them; such a function is learnt from pairs. `variant` tells apart what
    cannot share a student, such as two embedding models.
    """

    hash: str
    name: str
    closed: bool
    inputs_of: InputsOf
    media: bool = False  # it takes images or documents
    environment_id: int = 0
    student_model: str | tuple[str, ...] | None = "auto"
    distill_after: int = 200
    min_agreement: float = 0.9
    audit_rate: float = 0.02
    ignore_finetune_fetching: bool = False
    ignore_finetuning: bool = False
    template_version: int = 1
    match: Match | None = None
    bench: Bench | None = field(default=None, compare=False, repr=False)
    embed: Embed | None = field(default=None, compare=False, repr=False)
    variant: str = ""
    key: str = field(init=False, compare=False, repr=False)
    """Tasks with the same key share one place in a Distiller."""

    def __post_init__(self) -> None:
        told = [getattr(self, each.name) for each in dataclasses.fields(self) if each.name not in _NOT_TOLD]
        object.__setattr__(self, "key", f"{self.hash}/{told!r}")

    @property
    def state_key(self) -> str:
        """Where storage keeps the State."""
        return f"{self.hash}/state-{self._place}"

    @property
    def lease_key(self) -> str:
        """The lease that whoever trains must hold."""
        return f"{self.hash}/distill-{self._place}"

    def student_key(self, training: int, steps: int = 1) -> str:
        """Where storage keeps the student that training number `training` made, of one step or of more."""
        return f"{self.hash}/student-{self._place}-{training}{f'-{steps}' if steps > 1 else ''}"

    @property
    def _place(self) -> str:
        return f"{self.environment_id}-{self.variant}" if self.variant else str(self.environment_id)


_NOT_TOLD = frozenset(
    {"hash", "name", "inputs_of", "match", "bench", "embed", "key"}
)  # follow from the function, or are made anew each time


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """How far one function has been learnt, as all processes see it.

    `student` is the key of whoever serves, also while a newer one is trained; None where the teacher answers all.
    `trainings` counts finished trainings and sets when the next is due; `looks` counts evaluations ever made, which
    share one chance of error. `trainer` is the holder of the lease under which training goes on: whoever finds another
    name there was overtaken. Moments are ISO 8601; `not_before` and `failures` pace what failed.

    `job` is a training that runs at a provider, `rung` the way of learning that started it and `polls` how often it was
    looked at. Whoever finds it there goes on with it. `model` names the models that the serving student asks.
    """

    phase: Phase = "collecting"
    reason: str = "no examples were counted yet"
    trainings: int = 0
    looks: int = 0
    student: str | None = None
    kind: str | None = None
    model: str | None = None
    agreement: float | None = None
    bound: float | None = None
    baseline: float | None = None  # the agreement without the student, where it changes what a model gives
    confidence: float | None = None
    held_out: int = 0
    coverage: float | None = None
    trained_on: int = 0
    tried_with: int = 0  # pairs that there were at the last evaluation of an adapter
    audits: Audits = field(default_factory=Audits)
    template_version: int | None = None
    trainer: str | None = None
    job: str | None = None
    rung: str | None = None
    polls: int = 0
    failures: int = 0
    not_before: str = ""
    updated_at: str = ""

    @property
    def busy(self) -> bool:
        """Whether somebody was training when this was written."""
        return self.phase in ("training", "evaluating")

    @property
    def is_fresh(self) -> bool:
        """Whether nothing was learnt yet, and nothing is on its way."""
        return self.student is None and self.job is None and not self.trainings

    @property
    def who(self) -> str | None:
        """Name whoever serves; an adapter with its number, as what it gives is only comparable with itself."""
        if self.student is None or self.kind != "adapter":
            return self.kind if self.student else None
        return f"{self.kind}:{self.student.rpartition('-')[2]}"

    def at_rest(self, reason: str, **changes: Any) -> State:
        """Return to the phase that holds while nobody trains."""
        after = dataclasses.replace(self, reason=reason, trainer=None, **changes)
        return dataclasses.replace(after, phase="serving" if after.student else "collecting")

    def without_student(self, phase: Phase, reason: str, **changes: Any) -> State:
        """Take the student away; the teacher answers all."""
        return dataclasses.replace(
            self,
            phase=phase,
            reason=reason,
            student=None,
            kind=None,
            model=None,
            agreement=None,
            bound=None,
            baseline=None,
            confidence=None,
            coverage=None,
            held_out=0,
            **changes,
        )

    def to_json(self) -> bytes:
        """Write the state as a small JSON document."""
        return json.dumps({"v": VERSION, **dataclasses.asdict(self)}, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, text: bytes) -> State:
        """Read what `to_json` wrote; StorageError where it is torn, foreign or from a newer release."""
        try:
            document: dict[str, Any] = json.loads(text)
            version = document.pop("v")
            if version not in READABLE:
                raise StorageError(
                    f"a distillation state has version {version!r}, this release reads up to {VERSION}: "
                    "install a newer tanuki_async"
                )
            audits = document.pop("audits")
            audits["evidence"] = tuple(float(level) for level in audits["evidence"])
            state = cls(**document, audits=Audits(**audits))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StorageError(f"not a distillation state: {error!r}") from error
        if state.phase not in get_args(Phase):
            raise StorageError(f"not a distillation state: its phase is {state.phase!r}")
        return state
