"""An idle connection is looked at before it is used: its end may not have been heard yet."""

from __future__ import annotations

import asyncio
import socket

import pytest

from tanuki_async._pool.quiet import QUIET_SECONDS, has_ended


class Idle(asyncio.Transport):
    """A transport that has heard nothing."""

    def is_closing(self) -> bool:
        return False


@pytest.mark.parametrize(
    ("what", "ended"), [("nothing", False), ("the end", True), ("bytes that nobody asked for", True), ("closed", True)]
)
def test_what_nobody_has_read_yet_ends_an_idle_connection(what: str, ended: bool) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        if what == "the end":
            theirs.close()
        elif what == "closed":
            ours.close()
        elif what != "nothing":
            theirs.send(b"x")
        transport = Idle({"socket": ours})
        assert has_ended(transport, QUIET_SECONDS) is ended
        assert not has_ended(transport, QUIET_SECONDS / 2)  # it would have been heard by now
