"""Several students, cheapest first: what one abstains from goes to the next."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tanuki_async._errors import StorageError
from tanuki_async._records import JsonValue
from tanuki_async.abc import ABSTAIN, Abstention, Student

__all__ = ["KIND", "Contents", "Ladder", "Step", "pack", "unpack"]

KIND = "ladder"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One proved student of a ladder. Its numbers are about the inputs that reach it."""

    kind: str
    parameters: bytes
    agreement: float
    bound: float
    coverage: float
    held_out: int
    model: str | None = None
    baseline: float | None = None


@dataclass(frozen=True, slots=True)
class Contents:
    """What storage keeps of a ladder. `left` are digests of held-out inputs from which all its steps abstain."""

    steps: tuple[Step, ...]
    left: tuple[str, ...] = ()


class Ladder(Student):
    """Asks each student in turn."""

    def __init__(self, students: Sequence[Student]) -> None:
        self._students = tuple(students)

    async def answer(self, inputs: Mapping[str, JsonValue]) -> JsonValue | Abstention:
        for student in self._students:
            answer = await student.answer(inputs)
            if not isinstance(answer, Abstention):
                return answer
        return ABSTAIN


def pack(contents: Contents) -> bytes:
    """Write a ladder: one line of JSON, then the parameters of its steps."""
    steps = [{**asdict(step), "parameters": len(step.parameters)} for step in contents.steps]
    head = json.dumps({"v": 1, "kind": KIND, "left": list(contents.left), "steps": steps})
    return b"\n".join((head.encode(), b"".join(step.parameters for step in contents.steps)))


def unpack(packed: bytes) -> Contents:
    """Read what `pack` wrote; StorageError where it is malformed."""
    head, _, rest = packed.partition(b"\n")
    try:
        document: dict[str, Any] = json.loads(head)
        if document["v"] != 1:
            raise StorageError(f"a ladder has version {document['v']!r}: install a newer tanuki_async")
        steps: list[Step] = []
        for fields in document["steps"]:
            size: int = fields.pop("parameters")
            steps.append(Step(**fields, parameters=rest[:size]))
            if len(steps[-1].parameters) != size:
                raise ValueError("it is torn")
            rest = rest[size:]
        return Contents(tuple(steps), tuple(document["left"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageError(f"not a ladder of students: {error!r}") from error
