"""One job per tag, whoever starts it, however often, and whatever gets lost on the way."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from tanuki_async._errors import ProviderError, ProviderUnavailableError, ProviderUnreachableError
from tanuki_async._records import Job

TAG = "tanuki_tag"
"""The key of a job's metadata that holds our mark."""


@dataclass(frozen=True, slots=True)
class Dated:
    """A job with when it was made, in a form that sorts."""

    made: str
    job: Job


def latest(found: Sequence[Dated]) -> Job | None:
    """Return the job that stands for its tag: the oldest that is or may be of use, else the latest of all."""
    useful = [each for each in found if each.job.status in ("running", "succeeded")]
    if useful:
        return min(useful, key=lambda each: (each.made, each.job.id)).job
    return max(found, key=lambda each: (each.made, each.job.id)).job if found else None


async def start_once(
    find: Callable[[], Awaitable[Sequence[Dated]]],
    create: Callable[[], Awaitable[Job]],
    cancel: Callable[[str], Awaitable[Job]],
) -> Job:
    """Return the job that is there, else create one; look again where the answer got lost, and where others raced.

    Of two that were created at the same moment the older stays, so both who started them end with the same.
    """
    if (there := latest(await find())) is not None:
        return there
    try:
        created = await create()
    except (ProviderUnreachableError, ProviderUnavailableError):
        if (there := latest(await find())) is not None:
            return there
        raise
    try:
        kept = latest(await find()) or created
        if kept.id != created.id:
            await cancel(created.id)
    except ProviderError:  # ours runs; if there are two, whoever looks next sees the older
        return created
    return kept
