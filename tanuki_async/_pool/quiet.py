"""Whether a connection that nobody used for a while still stands, asked before a request is sent over it.

Nothing may be sent twice: who cannot tell whether a request arrived must not send it again unasked.
"""

from __future__ import annotations

import select
import sys
from typing import Any

QUIET_SECONDS = 1.0
"""Idle for less, a connection is taken to stand: the loop would have heard of its end."""


def has_ended(transport: Any, idle_seconds: float) -> bool:
    """Tell whether it was closed, perhaps while the loop was too busy to hear of it."""
    if transport.is_closing():
        return True
    return idle_seconds >= QUIET_SECONDS and _has_news(transport.get_extra_info("socket").fileno())


def _has_news(file: int) -> bool:
    """Whether something came that was not read yet. Nobody was asked, so it is the end, or no good."""
    if file < 0:  # under TLS the socket is closed a round before anybody hears of it
        return True
    if sys.platform == "win32":
        return bool(select.select([file], [], [], 0)[0])
    poll = select.poll()
    poll.register(file, select.POLLIN)
    return bool(poll.poll(0))
