"""What a user may implement: a provider of models, a place for data, a student.

Each class's docstrings are its contract; the suites in `tests/contracts/` check every implementation against them.
"""

from __future__ import annotations

from tanuki_async._records import Attachment, Completion, Decision, Head, Job, Reply, Request, Training, Turn
from tanuki_async.abc._provider import Batches, Http, Provider, Streamed, Tuning
from tanuki_async.abc._storage import Appended, Finding, Lease, Storage, Versioned
from tanuki_async.abc._student import ABSTAIN, Abstention, Student

__all__ = [
    "ABSTAIN",
    "Abstention",
    "Appended",
    "Attachment",
    "Batches",
    "Completion",
    "Decision",
    "Finding",
    "Head",
    "Http",
    "Job",
    "Lease",
    "Provider",
    "Reply",
    "Request",
    "Storage",
    "Streamed",
    "Student",
    "Training",
    "Tuning",
    "Turn",
    "Versioned",
]


def _show_public_paths() -> None:
    """Let messages and pickles name the public path of a class, not the file that we may move."""
    for each in list(globals().values()):
        if isinstance(each, type) and each.__module__.startswith(f"{__name__}."):
            each.__module__ = __name__


_show_public_paths()
