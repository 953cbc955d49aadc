"""Typed async functions answered by language models, which get cheaper with use.

import tanuki_async as tanuki

@tanuki.patch
async def classify(text: str) -> Literal["good", "bad"] | None:
\"\"\"Classify the sentiment of a message, or None if it has none.\"\"\"
...
"""

from tanuki_async._about import Description, Status, describe, distill, feedback, status
from tanuki_async._align import align
from tanuki_async._amap import amap
from tanuki_async._codec.types import Embedding
from tanuki_async._errors import (
    AlignmentError,
    AuthenticationError,
    BudgetExceededError,
    CallTimeoutError,
    InputError,
    NotOpenError,
    OutputError,
    PromptTooLongError,
    ProviderError,
    ProviderUnavailableError,
    ProviderUnreachableError,
    QuotaExceededError,
    RateLimitedError,
    RefusalError,
    RequestRejectedError,
    SettingsError,
    StorageError,
    StubError,
    TanukiError,
    UsageError,
)
from tanuki_async._patch import patch
from tanuki_async._records import Example, Limits, Model, Usage
from tanuki_async._runtime import Statistics, Tanuki, configure, flush
from tanuki_async._version import __version__

__all__ = [
    "AlignmentError",
    "AuthenticationError",
    "BudgetExceededError",
    "CallTimeoutError",
    "Description",
    "Embedding",
    "Example",
    "InputError",
    "Limits",
    "Model",
    "NotOpenError",
    "OutputError",
    "PromptTooLongError",
    "ProviderError",
    "ProviderUnavailableError",
    "ProviderUnreachableError",
    "QuotaExceededError",
    "RateLimitedError",
    "RefusalError",
    "RequestRejectedError",
    "SettingsError",
    "Statistics",
    "Status",
    "StorageError",
    "StubError",
    "Tanuki",
    "TanukiError",
    "Usage",
    "UsageError",
    "__version__",
    "align",
    "amap",
    "configure",
    "describe",
    "distill",
    "feedback",
    "flush",
    "patch",
    "status",
]


def _show_public_paths() -> None:
    """Let a traceback name the public path of an error, not the file that we may move."""
    for name in __all__:
        public = globals()[name]
        if isinstance(public, type) and issubclass(public, TanukiError):
            public.__module__ = __name__


_show_public_paths()
