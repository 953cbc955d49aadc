"""Who answered a function how often, with how many tokens and for how much."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, get_args

from tanuki_async._errors import StorageError
from tanuki_async._records import Model, Usage, Used

Cost = Literal["cost", "audit_cost", "student_cost", "learning_cost"]

LIFE = "life"
"""The period that never ends; all others are UTC days, such as `"2026-11-23"`."""


@dataclass(frozen=True, slots=True)
class Spent:
    """What went out in some period. `usd` is in US dollars; tokens are those of input and output together."""

    usd: float = 0.0
    tokens: int = 0
    requests: int = 0

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.usd + other.usd, self.tokens + other.tokens, self.requests + other.requests)

    def __sub__(self, other: Spent) -> Spent:
        return Spent(self.usd - other.usd, self.tokens - other.tokens, self.requests - other.requests)


@dataclass(slots=True, kw_only=True)
class Tally:
    """Counts since some moment. Two tallies add up; unknown costs stay visible as `unpriced` requests.

    Costs are in US dollars: `cost` what teachers' answers took, beside it what audits, a student that is a model, and
    looking for one took. `teacher` counts calls that a teacher answered, audits not among them. `spent` is there only
    where a budget is: its life, and the latest day.
    """

    teacher: int = 0
    student: int = 0
    deferred: int = 0  # calls the student passed on to the teacher; counted in `teacher` too
    failed: int = 0
    repaired: int = 0
    audits: int = 0
    hedged: int = 0  # requests that were sent a second time because the first took long
    cached: int = 0  # calls answered from what was kept, or by another call's answer; not counted in `teacher`
    cost: float = 0.0
    audit_cost: float = 0.0
    student_cost: float = 0.0
    learning_cost: float = 0.0
    unpriced: int = 0
    usage: dict[str, Used] = field(default_factory=dict[str, Used])  # by model
    spent: dict[str, Spent] = field(default_factory=dict[str, Spent])  # by period

    def spend(self, model: Model, usage: Usage, *, audit: bool = False, on: Cost = "cost") -> None:
        """Count what a request used, and what it cost `on` which account."""
        name = str(model)
        used = self.usage.get(name)
        if used is None:
            used = self.usage[name] = Used()
        used.add(usage)
        cost = model.cost(usage)
        if cost is None:
            self.unpriced += usage.requests
        elif audit:
            self.audit_cost += cost
        elif on == "cost":
            self.cost += cost
        else:
            setattr(self, on, getattr(self, on) + cost)

    def count(self, day: str, amount: Spent) -> None:
        """Count what a budget pays for, in its life and on that day; earlier days are forgotten."""
        for period in (LIFE, day):
            self.spent[period] = self.spent.get(period, Spent()) + amount
        self._forget_old_days()

    def _forget_old_days(self) -> None:
        if len(self.spent) > 2:
            latest = max(period for period in self.spent if period != LIFE)
            self.spent = {period: amount for period, amount in self.spent.items() if period in (LIFE, latest)}

    def add(self, other: Tally) -> None:
        """Add another tally to this one."""
        for name in (
            "teacher", "student", "deferred", "failed", "repaired", "audits", "hedged", "cached", "unpriced",
        ):  # fmt: skip
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in get_args(Cost):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for model, used in other.usage.items():
            self.usage.setdefault(model, Used()).add(used)
        for period, amount in other.spent.items():
            self.spent[period] = self.spent.get(period, Spent()) + amount
        self._forget_old_days()

    def take(self) -> Tally:
        """Return a copy and begin anew from zero."""
        taken, fresh = replace(self), Tally()
        for each in fields(self):
            setattr(self, each.name, getattr(fresh, each.name))
        return taken

    def total_usage(self) -> Usage:
        """Tokens of all models together."""
        total = Used()
        for used in self.usage.values():
            total.add(used)
        return total.usage()

    def total_cost(self) -> float:
        """US dollars for everything."""
        return self.cost + self.audit_cost + self.student_cost + self.learning_cost

    def saved(self) -> float | None:
        """US dollars that the student saved: its calls at the teacher's mean price, less what having it costs.

        None where a price is unknown or no teacher has answered yet.
        """
        if self.unpriced or not self.teacher:
            return None
        return self.student * self.cost / self.teacher - (self.total_cost() - self.cost)

    def __bool__(self) -> bool:
        return bool(
            self.teacher or self.student or self.failed or self.audits or self.cached or self.usage or self.spent
        )

    def to_json(self) -> bytes:
        """Write the tally as a small JSON document."""
        return json.dumps({"v": 1, **asdict(self)}, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Tally:
        """Read what `to_json` wrote; StorageError where it is something else."""
        try:
            document: Mapping[str, Any] = json.loads(text)
            usage = {model: Used(**counts) for model, counts in document["usage"].items()}
            spent = {period: Spent(**amounts) for period, amounts in document.get("spent", {}).items()}
            counts = {key: value for key, value in document.items() if key not in ("v", "usage", "spent")}
            return cls(**counts, usage=usage, spent=spent)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise StorageError(f"not a tally: {error!r}") from error
