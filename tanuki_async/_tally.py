"""Who answered a function how often, with how many tokens and for how much."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from tanuki_async._errors import StorageError
from tanuki_async._records import Model, Usage


@dataclass(slots=True, kw_only=True)
class Tally:
    """Counts since some moment. Two tallies add up; unknown costs stay visible as `unpriced` requests.

    `cost` is in US dollars. `teacher` counts calls that a teacher answered, audits not among them.
    """

    teacher: int = 0
    student: int = 0
    deferred: int = 0  # calls the student passed on to the teacher; counted in `teacher` too
    failed: int = 0
    repaired: int = 0
    audits: int = 0
    cost: float = 0.0
    audit_cost: float = 0.0
    unpriced: int = 0
    usage: dict[str, Usage] = field(default_factory=dict[str, Usage])  # by model

    def spend(self, model: Model, usage: Usage, *, audit: bool = False) -> None:
        """Count what a request used."""
        name = str(model)
        known = self.usage.get(name)
        self.usage[name] = usage if known is None else known + usage
        cost = model.cost(usage)
        if cost is None:
            self.unpriced += usage.requests
        elif audit:
            self.audit_cost += cost
        else:
            self.cost += cost

    def add(self, other: Tally) -> None:
        """Add another tally to this one."""
        for name in ("teacher", "student", "deferred", "failed", "repaired", "audits", "unpriced"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.cost += other.cost
        self.audit_cost += other.audit_cost
        for model, usage in other.usage.items():
            self.usage[model] = self.usage.get(model, Usage()) + usage

    def take(self) -> Tally:
        """Return a copy and begin anew from zero."""
        taken, fresh = replace(self), Tally()
        for each in fields(self):
            setattr(self, each.name, getattr(fresh, each.name))
        return taken

    def total_usage(self) -> Usage:
        """Tokens of all models together."""
        total = Usage()
        for usage in self.usage.values():
            total += usage
        return total

    def saved(self) -> float | None:
        """US dollars that the student saved: its calls at the teacher's mean price, less what audits cost.

        None where a price is unknown or no teacher has answered yet.
        """
        if self.unpriced or not self.teacher:
            return None
        return self.student * self.cost / self.teacher - self.audit_cost

    def __bool__(self) -> bool:
        return bool(self.teacher or self.student or self.failed or self.audits or self.usage)

    def to_json(self) -> bytes:
        """Write the tally as a small JSON document."""
        return json.dumps({"v": 1, **asdict(self)}, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Tally:
        """Read what `to_json` wrote; StorageError where it is something else."""
        try:
            document: Mapping[str, Any] = json.loads(text)
            usage = {model: Usage(**counts) for model, counts in document["usage"].items()}
            return cls(**{key: value for key, value in document.items() if key not in ("v", "usage")}, usage=usage)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise StorageError(f"not a tally: {error!r}") from error
