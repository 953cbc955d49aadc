"""Places for exchanges on the HTTP/2 sessions with one host: who waits for one, and when another session is made."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

from tanuki_async._errors import NotOpenError, own
from tanuki_async._pool import wire
from tanuki_async._pool.session import Session
from tanuki_async._pool.wire import Connection

Connect: TypeAlias = Callable[[Callable[[Session], None]], Coroutine[Any, Any, Session | Connection]]


class Origin:
    """The sessions with one host. Gives their places out in order of arrival, and makes another when all are taken.

    The queue has no bound of its own: each entry is a task that exists anyway.
    """

    def __init__(self, name: str, connect: Connect) -> None:
        self._name, self._connect = name, connect
        self._waiting: deque[asyncio.Future[Session | None]] = deque()
        self._dialing: set[asyncio.Task[Session | Connection]] = set()
        self._usual = 0  # places of the newest session
        self._plain = False
        self.sessions: list[Session] = []

    async def place(self) -> Session | None:
        """Take a place on a session, one that is open or one that is made now. None if the host speaks HTTP/1.1 only.

        Raises what making a connection raises, if there is no other to wait for.
        """
        if self._plain:
            return None
        self._close_idle()
        if not self._waiting:
            for session in self.sessions:
                if session.has_room:
                    session.take()
                    return session
        turn: asyncio.Future[Session | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._make_more()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None and (given := turn.result()):
                given.give_back()  # got one and was cancelled in the same moment
            raise

    def adopt(self, session: Session) -> None:
        """Take a new session among the others."""
        if not session.lost:
            self._plain = False
            self._usual = session.places
            self.sessions.append(session)
        self.changed(session)

    def changed(self, session: Session) -> None:
        """Take note that a session has places, or has none any more."""
        if session.lost and session in self.sessions:
            self.sessions.remove(session)
        self._give_out()
        if not any(each.is_open for each in self.sessions):
            self._make_more()

    async def aclose(self) -> None:
        """Close all sessions. Who waits for a place gets NotOpenError."""
        self._send_away(NotOpenError("the connections were closed while a request waited for its turn"))
        for session in list(self.sessions):
            session.abort()
        if dialing := list(self._dialing):
            for task in dialing:
                task.cancel()
            await asyncio.wait(dialing)

    def _give_out(self) -> None:
        for session in self.sessions:
            while session.has_room and self._waiting:
                turn = self._waiting.popleft()
                if not turn.done():
                    session.take()
                    turn.set_result(session)

    def _make_more(self) -> None:
        """Make as many sessions as those who wait need; only one as long as it is not known what one holds."""
        while self._waiting and self._waiting[0].done():
            self._waiting.popleft()
        wanted = -(-len(self._waiting) // max(1, self._usual)) if self._usual else min(1, len(self._waiting))
        while len(self._dialing) < wanted:
            task = asyncio.create_task(self._connect(self.changed), name=f"tanuki_async: connect to {self._name}")
            self._dialing.add(task)
            task.add_done_callback(self._made)

    def _made(self, task: asyncio.Task[Session | Connection]) -> None:
        self._dialing.discard(task)
        if task.cancelled():
            return
        if error := task.exception():
            if not self._dialing and not any(each.is_open for each in self.sessions):
                self._send_away(error)
        elif isinstance(made := task.result(), Session):
            self.adopt(made)
            self._make_more()
        else:
            self._plain = True
            for turn in self._waiting:
                if not turn.done():
                    turn.set_result(None)
            self._waiting.clear()

    def _send_away(self, error: BaseException) -> None:
        waiting, self._waiting = self._waiting, deque()
        for turn in waiting:
            if not turn.done():
                turn.set_exception(own(error))

    def _close_idle(self) -> None:
        now = time.monotonic()
        for session in list(self.sessions):
            if session.taken:
                continue
            if now - session.idle_since > wire.IDLE_SECONDS:
                session.close()
            elif session.has_ended(now):
                session.abort()
