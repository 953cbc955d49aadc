"""What a patched function returns while an align function runs: a value that learns what it is compared with."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NoReturn, Protocol

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from tanuki_async._codec.bind import complaint_text
from tanuki_async._codec.describe import Call
from tanuki_async._codec.media import KEPT
from tanuki_async._errors import AlignmentError
from tanuki_async._function import PatchedFunction
from tanuki_async._records import Example

logger = logging.getLogger("tanuki_async.align")

_OURS = str(Path(__file__).parent)

HOW = (
    "write `assert await f(x) == answer`, `is None`, `is True`, `is False`, `assert not await f(x)` or, for "
    "embeddings, `assert await e(a) == await e(b)` or `!=`"
)


def place() -> tuple[str, int]:
    """Return the file and line of the user's code that is running."""
    frame = sys._getframe(1)  # noqa: SLF001  # the only way to a frame that is quick
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_OURS):
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno


def refuse(why: str, instead: str = HOW) -> NoReturn:
    """Raise AlignmentError for the line that is running."""
    raise AlignmentError(f"{why}; {instead}" if instead else why, *place())


class Session(Protocol):
    """One run of an align function, whether it teaches or is checked."""

    def mark(self) -> int:
        """Remember where an assert begins."""
        ...

    async def ask(self, function: PatchedFunction, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Return what a patched function returns here."""
        ...

    def judge(self, mark: int, *, holds: bool, left: Any, right: Any) -> bool:
        """Return the truth of an assert whose operands were evaluated since `mark`."""
        ...


class Lesson:
    """One run of an align function: what it taught, in order, kept back until the function returns."""

    def __init__(self) -> None:
        self.examples: list[tuple[PatchedFunction, Example]] = []
        self.pairs: list[tuple[PatchedFunction, Example, bool]] = []  # of embeddings: True where they are alike
        self._open: list[Expectation] = []  # asked for, and not compared with anything yet
        self._marks = 0

    def mark(self) -> int:
        """Number the assert that begins; what is asked for in it, in tasks that it starts too, is known by that."""
        self._marks += 1
        _asserting.set(self._marks)
        return self._marks

    async def ask(self, function: PatchedFunction, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        if any(isinstance(each, Expectation) for each in (*args, *kwargs.values())):
            refuse(f"an answer was passed on to {function.spec.name}()")
        return self.expect(function, function.spec.bind(args, kwargs))

    def judge(self, mark: int, *, holds: bool, left: Any, right: Any) -> bool:
        """Refuse an assert in which an answer was lost; else it is as true as Python says."""
        if any(each.within == mark for each in self._open):
            refuse("an answer was used inside of a larger expression")
        return holds

    def expect(self, function: PatchedFunction, call: Call) -> Expectation:
        """Stand in for the answer to `call`."""
        if reason := forbidden.get():
            refuse(f"an assert with {reason} cannot be learnt from")
        expectation = Expectation(self, function, call, _asserting.get())
        self._open.append(expectation)
        return expectation

    def explain(self, error: AssertionError) -> None:
        """Add to an assert that failed as plain Python what may have been meant."""
        if self._open:
            names = ", ".join(sorted({f"{each.function.spec.name}()" for each in self._open}))
            error.add_note(
                f"{names} was asked and not compared with an answer; outside of the align function itself, "
                "in helpers, an assert teaches by `==` only"
            )

    def learn(self, expectation: Expectation, answer: Any) -> None:
        """Note that `answer` is right. AlignmentError where it does not fit the declared type."""
        function = expectation.function
        spec = function.spec
        if spec.embedding:
            refuse(f"{spec.name}() returns an embedding, which is compared with another embedding")
        assert spec.wire is not None  # only embeddings have none
        wanted = f"{spec.output_text}, which {spec.name}() returns"
        try:
            value = spec.output.validate_python(answer)
            output = spec.wire.dump(value)
            spec.wire.load(output)  # pydantic takes an instance of a model or dataclass as it is
        except (ValidationError, PydanticSerializationError) as error:
            refuse(f"{answer!r} does not fit {wanted}: {complaint_text(error)}", "")
        if value != answer:
            refuse(f"{answer!r} is no {wanted}", f"write {value!r}")
        example = _example(expectation.call, output)
        if spec.media and spec.turn_of(example.args, example.kwargs) is None:
            logger.warning(
                "%s(): an aligned image or document is larger than the %d KiB that a record keeps; "
                "the example is neither shown nor trained on; make it smaller",
                spec.name, KEPT // 1024,
            )  # fmt: skip
        self.examples.append((function, example))
        self._close(expectation)

    def learn_pair(self, left: Expectation, right: Expectation, *, alike: bool) -> None:
        """Note that two embeddings are to be close or far apart."""
        function = left.function
        if not function.spec.embedding or right.function is not function:
            refuse("two answers are compared with each other, which says nothing about either")
        sides = [_parts(left.call), _parts(right.call)]
        pair = Example(args=tuple([*args, kwargs] for args, kwargs in sides), kwargs={}, output=alike, source="align")
        self.pairs.append((function, pair, alike))
        self._close(left)
        self._close(right)

    def _close(self, expectation: Expectation) -> None:
        self._open = [each for each in self._open if each is not expectation]


aligning: ContextVar[Session | None] = ContextVar("aligning", default=None)
"""The align function that runs in this task, if any."""

forbidden: ContextVar[str | None] = ContextVar("forbidden", default=None)
"""Why nothing can be learnt from the expression that is being evaluated."""

_asserting: ContextVar[int] = ContextVar("asserting", default=0)
"""The mark of the assert that is being evaluated, 0 outside of any."""


def _parts(call: Call) -> tuple[list[Any], dict[str, Any]]:
    import json

    return json.loads(call.args_json), json.loads(call.kwargs_json)


def _example(call: Call, output: bytes) -> Example:
    import json

    args, kwargs = _parts(call)
    return Example(args=tuple(args), kwargs=kwargs, output=json.loads(output), source="align")


class Expectation:
    """Stands for an answer. Comparing it with a value teaches that value; anything else is an AlignmentError."""

    def __init__(self, lesson: Lesson, function: PatchedFunction, call: Call, within: int) -> None:
        self.lesson, self.function, self.call = lesson, function, call
        self.within = within  # the mark of the assert that asked for it

    def __repr__(self) -> str:
        return f"<the answer of {self.function.spec.name}()>"

    def __eq__(self, other: object) -> bool:
        if reason := forbidden.get():
            refuse(f"an assert with {reason} cannot be learnt from")
        if isinstance(other, Expectation):
            self.lesson.learn_pair(self, other, alike=True)
        else:
            self.lesson.learn(self, other)
        return True

    def __ne__(self, other: object) -> bool:
        if reason := forbidden.get():
            refuse(f"an assert with {reason} cannot be learnt from")
        if not isinstance(other, Expectation):
            refuse("`!=` says only which answer is wrong")
        self.lesson.learn_pair(self, other, alike=False)
        return True

    def __bool__(self) -> bool:
        refuse("the truth of an answer was used outside of an assert of the align function itself")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)  # protocols that Python probes for
        refuse(f"an attribute of an answer, {name!r}, was used; the whole answer must be compared")

    def _used(self, *_: Any) -> NoReturn:
        refuse("an answer was changed or passed through a function; the whole answer must be compared")

    __hash__ = __str__ = __format__ = __bytes__ = __call__ = __len__ = __iter__ = __contains__ = __getitem__ = _used
    __lt__ = __le__ = __gt__ = __ge__ = __int__ = __float__ = __index__ = __neg__ = __abs__ = _used
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = __mod__ = _used
    __and__ = __rand__ = __or__ = __ror__ = __await__ = __aiter__ = __round__ = _used


class Checks:
    """What the asserts of an align function call instead of Python's own operators.

    Each gets the mark from before its operands were evaluated, so that an answer which was asked for and then
    lost in the expression is noticed. Without an answer among the operands they do what Python does.
    """

    def mark(self) -> int:
        """Remember where the assert begins."""
        session = aligning.get()
        return session.mark() if session else 0

    def done(self) -> None:
        """Forget the assert, however it ended."""
        forbidden.set(None)
        _asserting.set(0)

    def equal(self, mark: int, left: Any, right: Any) -> bool:
        """`assert left == right`."""
        return _judge(mark, bool(left == right), left, right)

    def differs(self, mark: int, left: Any, right: Any) -> bool:
        """`assert left != right`."""
        return _judge(mark, bool(left != right), left, right)

    def same(self, mark: int, left: Any, right: Any) -> bool:
        """`assert left is right`."""
        if isinstance(right, Expectation):
            left, right = right, left
        if not isinstance(left, Expectation):
            return _judge(mark, left is right, left, right)
        if right is not None and right is not True and right is not False:
            refuse("`is` compares with None, True or False only")
        left.lesson.learn(left, right)
        return True

    def not_same(self, mark: int, left: Any, right: Any) -> bool:
        """`assert left is not right`."""
        if isinstance(left, Expectation) or isinstance(right, Expectation):
            refuse("`is not` says only which answer is wrong")
        return _judge(mark, left is not right, left, right)

    def truthy(self, mark: int, value: Any) -> bool:
        """`assert value`."""
        if not isinstance(value, Expectation):
            return _judge(mark, bool(value), value, True)
        if not _fits(value, True):
            refuse(f"a bare assert teaches True, but {value.function.spec.name}() returns {_wanted(value)}")
        value.lesson.learn(value, True)
        return True

    def falsy(self, mark: int, value: Any) -> bool:
        """`assert not value`."""
        if not isinstance(value, Expectation):
            return _judge(mark, not value, value, False)
        answer = False if _fits(value, False) else None
        if answer is None and not _fits(value, None):
            refuse(f"`not` teaches False or None, but {value.function.spec.name}() returns {_wanted(value)}")
        value.lesson.learn(value, answer)
        return True

    def forbid(self, reason: str) -> str:
        """Open an expression that nothing can be learnt from."""
        forbidden.set(reason)
        return reason

    def other(self, _: str, value: Any) -> bool:
        """Close it."""
        forbidden.set(None)
        return bool(value)


def _judge(mark: int, holds: bool, left: Any, right: Any) -> bool:
    session = aligning.get()
    return holds if session is None else session.judge(mark, holds=holds, left=left, right=right)


def _fits(expectation: Expectation, value: Any) -> bool:
    try:
        fitted = expectation.function.spec.output.validate_python(value)
    except ValidationError:
        return False
    return fitted is value


def _wanted(expectation: Expectation) -> str:
    return expectation.function.spec.output_text
