"""A trained answerer, and its way to decline."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from tanuki_async._records import JsonValue


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
