"""Typed async functions answered by language models, which get cheaper with use.

The public names, and the file behind each. A file is imported when one of its names is first used, so that importing
the package, as its pytest plugin does in every run, costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from tanuki_async._version import __version__

if TYPE_CHECKING:
    from tanuki_async._about import Description, Status, describe, distill, feedback, status
    from tanuki_async._align import align
    from tanuki_async._amap import amap
    from tanuki_async._codec.types import Embedding
    from tanuki_async._errors import (
        AlignmentError,
        AttachmentRefusedError,
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
    from tanuki_async._media import Document, Image
    from tanuki_async._patch import patch
    from tanuki_async._records import Budget, Example, Hedge, Limits, Model, Usage
    from tanuki_async._runtime import Statistics, Tanuki, configure, flush

_BEHIND = {
    "_about": ("Description", "Status", "describe", "distill", "feedback", "status"),
    "_align": ("align",),
    "_amap": ("amap",),
    "_codec.types": ("Embedding",),
    "_media": ("Document", "Image"),
    "_patch": ("patch",),
    "_records": ("Budget", "Example", "Hedge", "Limits", "Model", "Usage"),
    "_runtime": ("Statistics", "Tanuki", "configure", "flush"),
}  # all others are errors
_PLACES = {name: place for place, names in _BEHIND.items() for name in names}

__all__ = [
    "AlignmentError",
    "AttachmentRefusedError",
    "AuthenticationError",
    "Budget",
    "BudgetExceededError",
    "CallTimeoutError",
    "Description",
    "Document",
    "Embedding",
    "Example",
    "Hedge",
    "Image",
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


def __getattr__(name: str) -> object:
    """Import a public name when it is first used."""
    if name in ("abc", "testing"):
        return import_module(f"{__name__}.{name}")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    public: object = getattr(import_module(f"{__name__}.{_PLACES.get(name, '_errors')}"), name)
    globals()[name] = public
    return public


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
