"""A typed coroutine stub becomes a call."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Coroutine, Mapping
from types import FrameType
from typing import Any, Literal, ParamSpec, TypedDict, TypeVar, Unpack, overload

from tanuki_async._errors import SettingsError
from tanuki_async._expect import aligning
from tanuki_async._function import ATTRIBUTE, PatchedFunction
from tanuki_async._records import Hedge
from tanuki_async._runtime import current
from tanuki_async._settings import BudgetChoice, ModelChoice, Options, RedactChoice, build

P = ParamSpec("P")
R = TypeVar("R")


class PatchKeywords(TypedDict, total=False):
    """What `@patch(...)` takes; see `patch`."""

    teacher_models: ModelChoice | None
    student_model: str | list[str] | None
    environment_id: int
    ignore_finetune_fetching: bool
    ignore_finetuning: bool
    ignore_data_storage: bool
    generation_params: Mapping[str, Any]
    max_repairs: int
    timeout: float
    distill_after: int
    min_agreement: float
    audit_rate: float
    match: Callable[[Any, Any], bool]
    hedge: Hedge | bool | None
    single_flight: bool
    cache: Literal["memory", "storage"] | None
    budget: BudgetChoice | None
    embedding_dimensions: int | None
    redact: RedactChoice | None


@overload
def patch(stub: Callable[P, Coroutine[Any, Any, R]], /) -> Callable[P, Coroutine[Any, Any, R]]: ...


@overload
def patch(
    **keywords: Unpack[PatchKeywords],
) -> Callable[[Callable[P, Coroutine[Any, Any, R]]], Callable[P, Coroutine[Any, Any, R]]]: ...


def patch(*stubs: Any, **keywords: Any) -> Any:
    """Let a model answer a coroutine function whose body is only a docstring, `...`, `pass` or
    `raise NotImplementedError`.

    Use it bare, `@patch`, or with keywords, `@patch(timeout=10)`:

    - `teacher_models`: a model or several, in order of preference; a later one answers where an earlier one cannot.
    - `student_model`: what to distil into: `"auto"`, `"local"`, a model such as `"openai:gpt-6-luna"`, a list of these
      (cheapest first), or None for the teacher only. Of embeddings, an adapter learns from aligned pairs and moves the
      vectors; None keeps the model's own.
    - `environment_id`: keeps the students of separate deployments apart.
    - `ignore_finetune_fetching`: do not use a student that was trained earlier.
    - `ignore_finetuning`: always the teacher; data is still kept.
    - `ignore_data_storage`: nothing is read from or written to storage.
    - `generation_params`: `temperature`, `top_p`, `max_new_tokens`, `seed`, `stop`, `frequency_penalty`,
      `presence_penalty`; nothing is sent that is not named here.
    - `max_repairs`: follow-up questions when an answer does not fit the type.
    - `timeout`: seconds for the whole call, waiting, retries and repairs included; where items are streamed, for each.
    - `distill_after`: examples before the first distillation; doubles with each.
    - `min_agreement`: lower bound of the agreement with the teacher that a student must prove, 0 to 1.
    - `audit_rate`: share of the student's calls that also ask the teacher, in the background.
    - `match`: `match(student's value, teacher's value)` tells whether they agree; equality by default.
    - `hedge`: True, or `Hedge(after=0.95, share=0.05)`: a request that takes longer than 95 % of this function's latest
      200 is sent once more, for at most 5 % of them; the first answer that fits wins, the other request is cancelled.
    - `single_flight`: concurrent calls with the same arguments share one request; each gets a value of its own.
    - `cache`: `"memory"` keeps the teacher's latest 10,000 answers while the Tanuki is open, `"storage"` begins with
      those recorded earlier. An aligned example for the same arguments takes the place of an answer.
    - `budget`: `Budget(usd=5, per="day")`, or several. A request that would exceed one is not sent; the call raises
      BudgetExceededError.
    - `embedding_dimensions`: the length of an embedding, for models that give shorter ones than they could.
    - `redact`: what is taken out of examples before they are stored: parameters and paths such as `["user.email",
      "return.name"]`, or a function from example to example, or to None, which stores nothing. Models see all of it.

    A stub that returns `AsyncIterator[T]` yields each item as soon as it is complete and valid, in `async for item in
    await f(x)`. What was yielded stands; where an item does not fit or the answer breaks off, the rest is asked for.

    Raises StubError where the function cannot be a stub and SettingsError for keywords that cannot work.
    """
    if len(stubs) > 1 or (stubs and (keywords or not _is_function(stubs[0]))):
        raise TypeError("patch takes keywords only: write `@tanuki.patch` or `@tanuki.patch(teacher_models='…')`")
    if stubs:
        return _patch(stubs[0], Options(), sys._getframe(1))  # noqa: SLF001  # the caller's variables name types
    try:
        options = build(Options, keywords)
    except SettingsError as error:
        raise SettingsError(f"@tanuki.patch: {error}") from error

    def decorate(stub: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Coroutine[Any, Any, Any]]:
        return _patch(stub, options, sys._getframe(1))  # noqa: SLF001

    return decorate


def _is_function(stub: Any) -> bool:
    return callable(stub) or isinstance(stub, (classmethod, staticmethod))  # these two get a StubError that helps


def _patch(
    stub: Callable[..., Coroutine[Any, Any, Any]], options: Options, caller: FrameType
) -> Callable[..., Coroutine[Any, Any, Any]]:
    function = PatchedFunction(stub, options, _namespace(caller))

    @functools.wraps(stub)
    async def call(*args: Any, **kwargs: Any) -> Any:
        if (session := aligning.get()) is not None:
            return await session.ask(function, args, kwargs)
        bound = function.spec.bind(args, kwargs)
        return await current().answer(function, bound)

    setattr(call, ATTRIBUTE, function)
    return call


def _namespace(frame: FrameType | None) -> dict[str, Any]:
    """Collect the names that string annotations may refer to where the stub is written.

    These are the variables of the class bodies around it and of the function around those.
    """
    found: dict[str, Any] = {}
    while frame is not None and frame.f_locals is not frame.f_globals:
        found = {**frame.f_locals, **found}
        if frame.f_code.co_flags & inspect.CO_OPTIMIZED:  # a function; class bodies are not optimized
            break
        frame = frame.f_back
    return found
