"""The story of one call: a student or a teacher answers, the answer becomes a value, the value is remembered."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from tanuki_async import _route
from tanuki_async._answers import Answers, Flights
from tanuki_async._clock import timestamp
from tanuki_async._codec import parse, prompt, tokens
from tanuki_async._codec.describe import Call
from tanuki_async._codec.parse import Parsed
from tanuki_async._desk import Desk
from tanuki_async._errors import (
    AttachmentRefusedError,
    AuthenticationError,
    CallTimeoutError,
    OutputError,
    ProviderUnavailableError,
    ProviderUnreachableError,
    QuotaExceededError,
    RateLimitedError,
    TanukiError,
)
from tanuki_async._hedge import Hedger
from tanuki_async._lines import compact, encode_line
from tanuki_async._pool.pool import Progress
from tanuki_async._records import Completion, JsonValue, Request, Turn
from tanuki_async._route import Teacher
from tanuki_async.abc import ABSTAIN, Abstention, Student

logger = logging.getLogger("tanuki_async.call")

CUT_OFF = "It was cut off before its end. Answer again, as briefly as the schema allows."

TAKE_OVER = (
    AttachmentRefusedError,
    AuthenticationError,
    ProviderUnavailableError,
    ProviderUnreachableError,
    QuotaExceededError,
    RateLimitedError,
)
"""When one teacher ends with these, the next one answers."""


async def call(desk: Desk, bound: Call) -> Any:
    """Answer one call within its deadline. What ends it is counted, and a timeout says what was waited for."""
    progress = Progress(desk.clock.monotonic() + desk.options.timeout)
    deadline = desk.deadlines.begin()
    try:
        if not desk.recalled:
            progress.waiting_for = "storage, for its examples"
            await desk.recall()
            progress.waiting_for = "its turn"
        value = await answer(desk, bound, progress)
    except BaseException as error:
        late = deadline.close() and isinstance(error, asyncio.CancelledError)
        desk.tally.failed += late or isinstance(error, Exception)
        if late:
            raise CallTimeoutError(desk.spec.name, progress.waiting_for, desk.options.timeout) from error
        raise
    deadline.close()
    return value


async def answer(desk: Desk, bound: Call, progress: Progress) -> Any:
    """Take what was kept from before, else what the student is sure of, else ask the first teacher that can answer."""
    if desk.answers is not None and (kept := from_answers(desk, bound, desk.answers)) is not ABSTAIN:
        return kept
    if (student := desk.apprentice.student()) is not None:
        sure = await from_student(desk, bound, student)
        if sure is not ABSTAIN:
            return sure
    if desk.flights is not None:
        return await from_flight(desk, bound, progress, desk.flights)
    parsed = await from_teachers(desk, bound, progress)
    desk.tally.teacher += 1
    return parsed.value


def from_answers(desk: Desk, bound: Call, answers: Answers) -> Any:
    """Return what a teacher answered to the same arguments before, or ABSTAIN."""
    value = answers.find(desk.spec, bound)
    desk.tally.cached += value is not ABSTAIN
    return value


async def from_flight(desk: Desk, bound: Call, progress: Progress, flights: Flights) -> Any:
    """Wait for the teacher's answer together with all who ask the same now; each makes a value of its own."""

    async def ask(shared: Progress) -> bytes:
        return (await from_teachers(desk, bound, shared)).output_json

    output = await flights.share(bound.text, ask, progress, spawn=desk.spawn, tally=desk.tally)
    assert desk.spec.wire is not None  # embeddings do not come here
    try:
        return desk.spec.wire.load(output)
    except ValidationError:  # some values are written by pydantic in a way that it does not read
        parsed = await from_teachers(desk, bound, progress)
        desk.tally.teacher += 1
        return parsed.value


async def from_student(desk: Desk, bound: Call, student: Student) -> Any:
    """Let the student answer, or return ABSTAIN. Its answers are no training data: only a teacher's are."""
    try:
        inputs = bound.inputs() if desk.redaction is None else desk.redaction.inputs(bound)  # as it has learnt them
        output = ABSTAIN if inputs is None else await student.answer(inputs)
        if isinstance(output, Abstention):
            desk.tally.deferred += 1
            return ABSTAIN
        value = load(desk, output)
    except (ValidationError, OutputError):
        await desk.apprentice.fault()
        return ABSTAIN
    except Exception:  # a student may be a user's own class; whatever it raises, the teacher can answer
        logger.exception("%s(): the student failed; the teacher answers", desk.spec.name)
        await desk.apprentice.fault()
        return ABSTAIN
    desk.tally.student += 1
    if desk.apprentice.due_audit():
        desk.spawn(audit(desk, bound, value), f"tanuki audit {desk.spec.name}")
    return value


def load(desk: Desk, output: JsonValue) -> Any:
    """Make a value of the declared type from recorded JSON. ValidationError where it does not fit."""
    assert desk.spec.wire is not None  # embeddings have no student
    return desk.spec.wire.load(compact(output))


@dataclass(slots=True, eq=False)
class Question:
    """What a teacher is asked, whoever answers."""

    bound: Call
    turn: Turn
    size: int  # of the whole prompt in tokens, about
    progress: Progress
    auditing: bool


def from_teachers(
    desk: Desk, bound: Call, progress: Progress, *, auditing: bool = False
) -> Coroutine[Any, Any, Parsed]:
    """Ask the first teacher whose window fits; a later one takes over when an earlier one cannot answer."""
    turn = prompt.input_turn(bound)
    size = tokens.size(desk.head, (turn,))
    able = desk.teachers if size <= desk.roomy else fitting(desk, turn, size)
    question = Question(bound, turn, size, progress, auditing)
    return converse(desk, able[0], question) if len(able) == 1 else one_of(desk, able, question)


def fitting(desk: Desk, turn: Turn, size: int) -> Sequence[Teacher]:
    """Return the teachers whose window takes the prompt, and who take what is attached; an error where none does."""
    return _route.fitting(
        desk.taking(turn) if desk.spec.media else desk.teachers,
        size,
        function=desk.spec.name,
        largest=lambda: desk.largest_part(turn),
        answer=desk.options.generation_params.max_new_tokens,
    )


async def one_of(desk: Desk, able: Sequence[Teacher], question: Question) -> Parsed:
    """Ask one teacher after the other until one can answer."""
    question.progress.others = True
    for teacher in able[:-1]:
        try:
            return await converse(desk, teacher, question)
        except TAKE_OVER as error:
            logger.warning("%s(): the next teacher takes over: %s", desk.spec.name, error)
    question.progress.others = False
    return await converse(desk, able[-1], question)


async def converse(desk: Desk, teacher: Teacher, question: Question) -> Parsed:
    """Ask until an answer fits the type, each time with the complaint about the one before; then remember it."""
    request = Request(model=teacher.model, head=desk.head, turns=(question.turn,), size=question.size)
    attempts: tuple[str, ...] = ()
    complaints: tuple[str, ...] = ()
    wire = desk.spec.wire
    assert wire is not None  # embeddings are not conversations
    while len(attempts) <= desk.options.max_repairs:
        if desk.plain:
            completion = await desk.pool.complete(teacher.provider, request, question.progress)
            desk.tally.spend(teacher.model, completion.usage, audit=question.auditing)
        else:
            completion = await ask(desk, teacher, request, question)
        if completion.truncated:
            completion = await with_more_room(desk, teacher, request, question, completion)
        parsed = parse.parse(wire, completion.text)
        if isinstance(parsed, Parsed):
            remember(desk, teacher, question.bound, parsed.output_json, repaired=bool(attempts))
            return parsed
        complaint = CUT_OFF if completion.truncated else parsed.text
        attempts, complaints = (*attempts, completion.text), (*complaints, complaint)
        turns = prompt.repair(request.turns, completion.text, complaint)
        request = Request(model=teacher.model, head=desk.head, turns=turns)
    raise OutputError(desk.spec.name, desk.spec.output_text, attempts, complaints)


def ask(desk: Desk, teacher: Teacher, request: Request, question: Question) -> Coroutine[Any, Any, Completion]:
    """Get one answer within its budgets, with a second request behind it where that was asked for."""
    if desk.hedger is None or question.auditing:
        return exchange(desk, teacher, request, question.progress, auditing=question.auditing)
    return hedged(desk, desk.hedger, teacher, request, question.progress)


async def with_more_room(
    desk: Desk, teacher: Teacher, request: Request, question: Question, cut: Completion
) -> Completion:
    """Ask once more for an answer that was cut off, if the model allows a longer one."""
    asked = desk.options.generation_params.max_new_tokens
    room = _route.larger_answer(teacher.model, asked, cut.usage.output_tokens)
    if room is None:
        return cut
    request = replace(request, max_tokens=room)
    return await exchange(desk, teacher, request, question.progress, auditing=question.auditing)


async def hedged(desk: Desk, hedger: Hedger, teacher: Teacher, request: Request, progress: Progress) -> Completion:
    """Ask once, and once more if that takes longer than most; return the first answer that fits the type."""
    wire = desk.spec.wire
    assert wire is not None  # embeddings do not come here
    return await hedger.first(
        lambda each: exchange(desk, teacher, request, each, auditing=False),
        progress,
        fits=lambda completion: isinstance(parse.parse(wire, completion.text), Parsed),
    )


async def exchange(desk: Desk, teacher: Teacher, request: Request, progress: Progress, *, auditing: bool) -> Completion:
    """Send one request within its budgets, and count what it used."""
    if desk.purse is None:
        completion = await desk.pool.complete(teacher.provider, request, progress)
    else:
        room = request.max_tokens or desk.options.generation_params.max_new_tokens
        async with desk.purse.hold(teacher.model, tokens.size(request.head, request.turns), room, progress) as held:
            completion = await desk.pool.complete(teacher.provider, request, progress)
            held.used = completion.usage
    desk.tally.spend(teacher.model, completion.usage, audit=auditing)
    return completion


def remember(desk: Desk, teacher: Teacher, bound: Call, output: bytes, *, repaired: bool) -> None:
    """Leave the answer behind as training data, without waiting."""
    desk.tally.repaired += repaired
    line = encode_line(
        args=bound.args_json,
        kwargs=bound.kwargs_json,
        output=output,
        source="call",
        repaired=repaired,
        model=str(teacher.model),
        at=timestamp(desk.clock.now()),
    )
    desk.remember(desk.patches, line)
    if desk.answers is not None:
        desk.answers.keep(bound.text, output)


async def audit(desk: Desk, bound: Call, value: Any) -> None:
    """Ask the teacher what the student has answered already, and take note whether they agree."""
    desk.tally.audits += 1
    try:
        async with asyncio.timeout(desk.options.timeout):
            truth = (await from_teachers(desk, bound, Progress(), auditing=True)).value
    except (TanukiError, TimeoutError) as error:  # the student goes on; a later audit will tell
        logger.info("%s(): no audit: %s", desk.spec.name, str(error) or f"no answer in {desk.options.timeout:g} s")
        return
    match = desk.options.match
    await desk.apprentice.audited(agreed=bool(match(value, truth)) if match else bool(value == truth))
