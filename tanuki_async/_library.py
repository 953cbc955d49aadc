"""What storage knows of each function: its aligned examples, its card, its tally, its student."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import secrets
import socket
import weakref
from collections.abc import Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any

from tanuki_async._answers import Answers
from tanuki_async._cards import forgotten_key, put_card
from tanuki_async._clock import Clock, timestamp
from tanuki_async._codec.describe import FunctionSpec
from tanuki_async._codec.prompt import TEMPLATE_VERSION
from tanuki_async._desk import Desk
from tanuki_async._distill.bench import Bench
from tanuki_async._distill.scheduler import Distiller
from tanuki_async._distill.state import State, Task
from tanuki_async._function import PatchedFunction
from tanuki_async._ledger import Ledger
from tanuki_async._lines import compact, encode_example
from tanuki_async._record import dataset
from tanuki_async._records import Example, JsonValue
from tanuki_async._route import Teacher
from tanuki_async._settings import Settings
from tanuki_async._vectors import of_pairs
from tanuki_async.abc import Http, Storage

if TYPE_CHECKING:
    from tanuki_async._expect import Lesson

logger = logging.getLogger("tanuki_async.storage")

RECALL_TIMEOUT = 5.0
"""Seconds that a function's first call waits for slow storage before it goes on without examples."""
SAVE_TALLIES = 5.0
"""Seconds between two looks at which tallies to add up in storage."""
_LOOK_PATIENTLY = 12
"""Times the patience of a storage whose requests cost money, between two looks for what was forgotten."""


class Library:
    """Reads what storage knows at a function's first call, and adds to it in the background."""

    def __init__(
        self,
        storage: Storage,
        settings: Settings,
        *,
        clock: Clock,
        find: Callable[[str], Teacher],
        http: Http,
    ) -> None:
        self._find, self._http = find, http
        self._storage, self._settings, self._clock = storage, settings, clock
        owner = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._distiller = Distiller(storage, clock=clock, owner=owner)
        self.ledger = Ledger(storage, settings, clock=clock, begin=self._save_tallies_now_and_then)
        self._saving = self._closed = False
        self._failing: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._forgotten: weakref.WeakKeyDictionary[Desk, str | None] = weakref.WeakKeyDictionary()  # as known there

    def patches(self, spec: FunctionSpec) -> str:
        """Return the name of the dataset that calls are remembered in."""
        return dataset.name_of(spec.hash, dataset.PATCHES)

    def written(self, name: str, count: int) -> None:
        """Take note that `count` new examples are durable under `name`."""
        self._distiller.on_written(name, count)

    async def recall(self, desk: Desk) -> None:
        """Read what storage knows of a function. Where storage is slow or down, go on without and try again later."""
        if desk.options.ignore_data_storage:
            return
        try:
            async with asyncio.timeout(RECALL_TIMEOUT):
                await self._recall(desk)
        except Exception as error:  # noqa: BLE001  # a user's storage may raise anything; the call can do without it
            why = str(error) or "storage is too slow"
            logger.warning("%s(): what was learnt cannot be read now: %s", desk.spec.name, why)
            self._run(self._recall_later(desk), f"tanuki recall {desk.spec.name}")

    async def _recall_later(self, desk: Desk) -> None:
        pause = 1.0
        while True:
            await self._clock.sleep(pause)
            pause = min(2 * pause, 60.0)
            try:
                return await self._recall(desk)
            except Exception as error:  # noqa: BLE001  # as above
                logger.debug("%s(): what was learnt still cannot be read: %s", desk.spec.name, error)

    async def _recall(self, desk: Desk) -> None:
        spec, options = desk.spec, desk.options
        self._forgotten[desk] = await self._times_forgotten(spec)
        if desk.options.cache == "storage" and desk.answers is not None:
            await self._recall_answers(desk, desk.answers)
        async for batch in dataset.read(self._storage, spec.hash, dataset.SYMBOLIC_ALIGNMENTS):
            for example in batch:  # after what calls left behind: what was aligned is right
                if not example.redacted:
                    desk.teach(example)
        self._save_tallies_now_and_then()
        if not options.ignore_finetuning:
            desk.apprentice = await self._distiller.watch(self.task(desk))
        await put_card(self._storage, spec, self._clock)

    async def introduce(self, spec: FunctionSpec) -> None:
        """Keep a function's card beside its data, where no call has done so."""
        await put_card(self._storage, spec, self._clock)

    async def _times_forgotten(self, spec: FunctionSpec) -> str | None:
        held = await self._storage.get(forgotten_key(spec.hash))
        return None if held is None else held.version

    async def _notice_forgotten(self) -> None:
        """Read anew what is remembered of functions whose examples were forgotten since, by whatever process."""
        for desk, known in list(self._forgotten.items()):
            if await self._times_forgotten(desk.spec) != known:
                desk.forget()
                await self._recall(desk)

    async def _recall_answers(self, desk: Desk, answers: Answers) -> None:
        """Keep the latest answers of the teachers that still are. Those given since then stay the later ones."""
        if answers.recalled:
            return
        older = Answers(answers.most)
        teachers = {str(teacher.model) for teacher in desk.teachers}
        count = await self._storage.count(self.patches(desk.spec))
        start = max(0, count - answers.most)
        async for batch in dataset.read(self._storage, desk.spec.hash, dataset.PATCHES, start=start):
            for example in batch:
                if example.model in teachers and not example.redacted:
                    older.learn(desk.spec, example)
        answers.add_older(older)
        answers.recalled = True

    def _save_tallies_now_and_then(self) -> None:
        if not self._saving:
            self._saving = True
            self._run(self._save_now_and_then(), "tanuki tallies")

    def _run(self, work: Coroutine[Any, Any, None], name: str) -> None:
        if self._closed:  # a reading that was begun before has ended now
            work.close()
            return
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def task(self, desk: Desk) -> Task:
        """Say what is to be learnt, for distillation."""
        spec, options, settings = desk.spec, desk.options, self._settings
        student = options.student_model if options.student_model != "auto" else settings.student_model
        match = options.match

        def agree(left: JsonValue, right: JsonValue) -> bool:
            assert match is not None
            assert spec.wire is not None
            return match(spec.wire.load(compact(left)), spec.wire.load(compact(right)))

        task = Task(
            hash=spec.hash,
            name=spec.name,
            closed=spec.closed,
            inputs_of=spec.inputs_of,
            media=bool(spec.media),
            environment_id=options.environment_id,
            student_model=student if student is None or isinstance(student, str) else tuple(student),
            distill_after=options.distill_after,
            min_agreement=settings.min_agreement if options.min_agreement is None else options.min_agreement,
            audit_rate=settings.audit_rate if options.audit_rate is None else options.audit_rate,
            ignore_finetune_fetching=options.ignore_finetune_fetching,
            ignore_finetuning=options.ignore_finetuning,
            template_version=TEMPLATE_VERSION,
            match=agree if match else None,
            bench=None if spec.embedding else Bench(desk, self._find, self._http),
        )
        return task if spec.embedding is None else of_pairs(task, desk, self._storage)

    def lesson(self, lesson: Lesson) -> Iterator[tuple[PatchedFunction, str, bytes]]:
        """Return the lines that a lesson leaves behind, and the dataset of each."""
        at = timestamp(self._clock.now())
        for function, example in lesson.examples:
            name = dataset.name_of(function.spec.hash, dataset.SYMBOLIC_ALIGNMENTS)
            yield function, name, _stamped(example, at)
        for function, pair, alike in lesson.pairs:
            kind = dataset.POSITIVE_EMBEDDABLE_ALIGNMENTS if alike else dataset.NEGATIVE_EMBEDDABLE_ALIGNMENTS
            yield function, dataset.name_of(function.spec.hash, kind), _stamped(pair, at)

    async def distill(self, desk: Desk) -> State:
        """Take one step of distillation now."""
        return await self._distiller.distill(self.task(desk))

    async def state(self, desk: Desk) -> State:
        """Read how far distillation has come."""
        return await self._distiller.state(self.task(desk))

    async def counts(self, spec: FunctionSpec) -> dict[str, int]:
        """Count the lines of each dataset of a function."""
        return {each: await self._storage.count(dataset.name_of(spec.hash, each)) for each in dataset.DATASETS}

    async def _save_now_and_then(self) -> None:
        looks = max(1, round(_LOOK_PATIENTLY * self._storage.patience / SAVE_TALLIES))
        for times in itertools.count(1):
            await self._clock.sleep(SAVE_TALLIES)
            await self._try(self.ledger.save, "tallies cannot be saved")
            if times % looks == 0:
                await self._try(self._notice_forgotten, "whether examples were forgotten cannot be read")

    async def _try(self, work: Callable[[], Coroutine[Any, Any, None]], otherwise: str) -> None:
        """Do something with storage; where that fails, say so once until it goes again."""
        try:
            await work()
            self._failing.discard(otherwise)
        except Exception as error:  # noqa: BLE001  # as above
            if otherwise not in self._failing:
                self._failing.add(otherwise)
                logger.warning("%s now: %s", otherwise, error)

    async def aclose(self) -> None:
        """Stop distilling and save the tallies."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._distiller.aclose()
        await self._try(self.ledger.save, "tallies cannot be saved")


def _stamped(example: Example, at: str) -> bytes:
    import dataclasses

    return encode_example(dataclasses.replace(example, at=at))
