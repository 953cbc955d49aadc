"""A function that embeds is learnt from pairs: an adapter moves the vectors of its model."""

from __future__ import annotations

import threading
from importlib.util import find_spec

from tanuki_async._distill.course import Course, NotNow, Outcome
from tanuki_async._distill.state import Task
from tanuki_async._errors import BudgetExceededError, ProviderError
from tanuki_async.abc import Student
from tanuki_async.students.adapter import MOST_PAIRS, Adapter, Pair, train


class AdapterLearner:
    """Learns an adapter in a worker thread of this process."""

    kind = "adapter"
    name = "adapter"

    def unavailable(self, task: Task) -> str | None:
        if task.embed is None:
            return "an adapter moves embeddings, and this function returns none"
        if not is_installed("numpy"):
            return "numpy is not installed: pip install 'tanuki_async[local]'"
        return None

    async def learn(self, course: Course) -> Outcome:
        embed = course.task.embed
        assert embed is not None
        latest = list(await course.lessons())[-MOST_PAIRS:]
        sides = [(str(lesson.inputs["left"]), str(lesson.inputs["right"]), lesson.output is True) for lesson in latest]
        texts = list(dict.fromkeys(text for pair in sides for text in pair[:2]))
        try:
            vectors = await embed(texts)
        except (ProviderError, BudgetExceededError, TimeoutError) as error:
            raise NotNow(f"the texts of pairs cannot be embedded now: {error}") from error
        known = [text for text in texts if text in vectors]
        places = {text: place for place, text in enumerate(known)}
        pairs = [
            Pair(places[left], places[right], alike)
            for left, right, alike in sides
            if left in places and right in places
        ]
        table, stop = [vectors[text] for text in known], threading.Event()
        try:
            return await course.run_sync(train, table, pairs, seed=course.seed, stopped=stop.is_set)
        finally:
            stop.set()  # a thread cannot be cancelled; it looks here between its steps

    def load(self, parameters: bytes, task: Task) -> Student:
        return Adapter.load(parameters)


def is_installed(package: str) -> bool:
    """Tell whether a package can be imported, without importing it."""
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):  # an import hook refuses it, or it was taken out of sys.modules by None
        return False
