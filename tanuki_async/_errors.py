"""The errors of the library, in one tree, so that a reader learns the failure model first.

TanukiError
├── UsageError                      the program is wrong; nothing was sent
│   ├── StubError                   a decorated function cannot be a stub
│   ├── SettingsError               a setting, model name or key is missing or wrong
│   ├── AlignmentError              an assert cannot be learnt from
│   └── NotOpenError                no Tanuki is open where the call was made
├── InputError (TypeError)          an argument does not fit its annotation
├── PromptTooLongError              no model has a window for this prompt
├── ProviderError                   the provider did not answer
│   ├── ProviderUnreachableError    no connection, or it was cut
│   ├── ProviderUnavailableError    5xx: the provider is ill
│   ├── RateLimitedError            429: too fast; waiting helps
│   ├── QuotaExceededError          429 or 402: the account is empty; waiting does not help
│   ├── AuthenticationError         401 or 403: the key is wrong or lacks a right
│   ├── RequestRejectedError        400, 404, 413, 422: the request is wrong
│   │   └── AttachmentRefusedError  the model takes no images, or no documents
│   └── RefusalError                the model declined to answer
├── CallTimeoutError (TimeoutError) the call's deadline passed
├── OutputError (TypeError)         the model never answered with a value of the declared type
├── BudgetExceededError             the next call would cost more than was allowed
└── StorageError                    from flush, status, align and the command line only
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TypeVar

CLIPPED = 200
"""Characters of a foreign text that a message shows."""


def clip(text: str, limit: int = CLIPPED) -> str:
    """Shorten `text` for a message, and say that it was shortened."""
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"


E = TypeVar("E", bound=BaseException)


def own(error: E) -> E:
    """Make a copy of an error for one of several that wait for the same: raising one object in many mixes their traces.

    An error that cannot be copied, as one of a user's own class may be, comes back as it is.
    """
    try:
        made = copy.copy(error)
    except Exception:  # noqa: BLE001  # its class makes its instances in a way of its own
        return error
    made.__context__, made.__cause__ = error.__context__, error.__cause__
    made.__suppress_context__ = error.__suppress_context__
    if notes := getattr(error, "__notes__", None):
        made.__notes__ = list(notes)
    return made.with_traceback(error.__traceback__)


class TanukiError(Exception):
    """Anything that this library raises on purpose."""


class UsageError(TanukiError):
    """The program asks for something that cannot work; nothing was sent."""


class StubError(UsageError):
    """A decorated function cannot be a stub; the message says what to write instead."""


class SettingsError(UsageError):
    """A setting, model name or key is missing or wrong."""


class AlignmentError(UsageError):
    """An assert in an align function cannot be learnt from; names its file and line."""

    def __init__(self, message: str, file: str | None = None, line: int | None = None) -> None:
        super().__init__(message, file, line)
        self.message, self.file, self.line = message, file, line

    def __str__(self) -> str:
        place = f" ({self.file}:{self.line})" if self.file else ""
        return self.message + place


class NotOpenError(UsageError):
    """No Tanuki is open here: it was closed, or belongs to another event loop."""


class InputError(TanukiError, TypeError):
    """An argument does not fit its annotation. Nothing was sent."""

    def __init__(self, function: str, parameter: str | None, reason: str) -> None:
        super().__init__(function, parameter, reason)
        self.function, self.parameter, self.reason = function, parameter, reason

    def __str__(self) -> str:
        where = f"argument {self.parameter!r} of " if self.parameter else ""
        return f"{where}{self.function}(): {self.reason}"


class PromptTooLongError(TanukiError):
    """No model that may answer has a context window for this prompt. Sizes are in tokens."""

    def __init__(self, function: str, size: int, windows: Mapping[str, int], largest: str) -> None:
        super().__init__(function, size, dict(windows), largest)
        self.function, self.size, self.windows, self.largest = function, size, dict(windows), largest

    def __str__(self) -> str:
        windows = ", ".join(f"{model}: {window:,}" for model, window in self.windows.items())
        return (
            f"{self.function}() makes a prompt of about {self.size:,} tokens, more than any of its models takes "
            f"({windows}); its largest part is {self.largest}. Shorten that part, or name a model with a larger window"
        )


class ProviderError(TanukiError):
    """The provider did not answer the request. `tried` tells each attempt, in order.

    `should_retry` is the server's own word on whether to try again, where it gives one. `begun`: a part of the answer
    was handed over already, so the request is not simply sent again.
    """

    should_retry: bool | None = None
    begun: bool = False

    def __init__(
        self,
        message: str,
        provider: str = "",
        model: str = "",
        status: int | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
        tried: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message, provider, model, status, request_id, retry_after, tried)
        self.message = message
        self.provider, self.model, self.status = provider, model, status
        self.request_id, self.retry_after, self.tried = request_id, retry_after, tried

    def __str__(self) -> str:
        who = ":".join(part for part in (self.provider, self.model) if part)
        text = f"{who}: {self.message}" if who else self.message
        if self.status is not None:
            text += f" (HTTP {self.status})"
        if self.request_id:
            text += f" [request {self.request_id}]"
        if len(self.tried) > 1:
            text += f"; tried {len(self.tried)} times: " + "; ".join(self.tried)
        return text


class ProviderUnreachableError(ProviderError):
    """No connection could be made, or it was cut before the answer was whole."""


class ProviderUnavailableError(ProviderError):
    """The provider answered that it cannot answer now (5xx)."""


class RateLimitedError(ProviderError):
    """Too many requests or tokens for now (429); waiting helps."""


class QuotaExceededError(ProviderError):
    """The account has no credit or has met its spending limit; waiting does not help."""


class AuthenticationError(ProviderError):
    """The key is missing, wrong, or lacks the right to do this (401, 403)."""


class RequestRejectedError(ProviderError):
    """The provider says that the request itself is wrong (400, 404, 413, 422).

    `parameter` and `code` are the provider's own words for what is wrong, where it gives them.
    """

    parameter: str | None = None
    code: str | None = None


class AttachmentRefusedError(RequestRejectedError):
    """The model takes no images, or no documents, or not in this form; another one may."""


class RefusalError(ProviderError):
    """The model declined to answer, or a content filter stopped it."""


class CallTimeoutError(TanukiError, TimeoutError):
    """The call's deadline passed. Says what it was waiting for; `seconds` is the whole deadline."""

    def __init__(self, function: str, waiting_for: str, seconds: float) -> None:
        super().__init__(function, waiting_for, seconds)
        self.function, self.waiting_for, self.seconds = function, waiting_for, seconds

    def __str__(self) -> str:
        return (
            f"{self.function}() had no answer after {self.seconds:g} s; it was waiting for {self.waiting_for}. "
            "Raise `timeout=`, or lower the number of calls at once"
        )


class OutputError(TanukiError, TypeError):
    """The model answered, but never with a value of the declared type.

    `attempts` holds each answer's text and `complaints` what was wrong with it, in order.
    """

    def __init__(self, function: str, wanted: str, attempts: tuple[str, ...], complaints: tuple[str, ...] = ()) -> None:
        super().__init__(function, wanted, attempts, complaints)
        self.function, self.wanted = function, wanted
        self.attempts, self.complaints = attempts, complaints

    def __str__(self) -> str:
        last = clip(self.attempts[-1], 80) if self.attempts else ""
        why = f": {clip(self.complaints[-1])}" if self.complaints else ""
        return (
            f"{self.function}() should return {self.wanted}, but none of {len(self.attempts)} answers fit; "
            f"the last was {last!r}{why}"
        )


class BudgetExceededError(TanukiError):
    """The next request would cost more than was allowed; it was not sent.

    `what` is what is limited: usd, tokens or requests; `whose` the function or Tanuki that the budget belongs to.
    `spent` includes what requests on their way may cost, `needed` is what this one may. `resets` is None or a date.
    """

    def __init__(
        self, function: str, whose: str, what: str, limit: float, spent: float, needed: float, resets: str | None = None
    ) -> None:
        super().__init__(function, whose, what, limit, spent, needed, resets)
        self.function, self.whose, self.what = function, whose, what
        self.limit, self.spent, self.needed, self.resets = limit, spent, needed, resets

    def __str__(self) -> str:
        limit, spent, needed = (
            f"${each:,.6g}" if self.what == "usd" else f"{each:,.0f} {self.what}"
            for each in (self.limit, self.spent, self.needed)
        )
        when = f"it starts again at {self.resets}" if self.resets else "it never starts again by itself"
        return (
            f"{self.function}() was not sent: the budget of {self.whose} is {limit}{' a day' if self.resets else ''}, "
            f"{spent} are spent or on their way, and this request may cost {needed}; {when}. Raise `budget=`, wait, "
            "or lower `generation_params={'max_new_tokens': …}`, which bounds what a request may cost"
        )


class StorageError(TanukiError):
    """Examples could not be read or written. Never raised from a patched call.

    `down` tells that the place itself fails now, whatever is asked of it: no line is to blame, and all of them wait.
    """

    def __init__(self, message: str, *, down: bool = False) -> None:
        super().__init__(message)
        self.down = down


def _show_public_paths() -> None:
    """Let a traceback name the public path of an error, not the file that we may move."""
    for each in list(globals().values()):
        if isinstance(each, type) and issubclass(each, TanukiError):
            each.__module__ = "tanuki_async"


_show_public_paths()
