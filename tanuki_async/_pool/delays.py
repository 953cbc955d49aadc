"""Tells the pool of a request that could not be written at once: connecting took long. Limits count it from then."""

from __future__ import annotations

from contextvars import ContextVar

LATE = 0.25
"""Seconds from which on it matters; limits allow for a second of uneven travel."""

late: ContextVar[bool] = ContextVar("tanuki_async_late", default=False)
"""Set in the task that sends, read by the pool in the same task when the exchange is over."""
