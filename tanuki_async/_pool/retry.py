"""What to try again, after how long, and how often."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from tanuki_async._errors import ProviderError, ProviderUnavailableError, ProviderUnreachableError, RateLimitedError

if TYPE_CHECKING:
    from tenacity import RetryCallState

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How often, and how long between: what the server says, else a random part of `first * 2**n`, at most `cap`.

    Seconds, all. The n-th wait has n from 0.
    """

    tries: int = 6
    first: float = 0.5
    cap: float = 8.0
    longest_hint: float = 120.0
    """A server that asks for a longer wait than this is not waited for."""

    def delay(self, error: ProviderError, failures: int, draw: Callable[[], float]) -> float:
        """Seconds to wait after the `failures`-th failure. `draw` gives numbers from 0 to 1."""
        if error.retry_after is not None:
            # A little later than told, and not all in the same moment; later still if that was not enough.
            return error.retry_after * (1 + 0.1 * draw()) + (failures > 1) * self._backoff(failures - 1, draw)
        return self._backoff(failures, draw)

    def _backoff(self, failures: int, draw: Callable[[], float]) -> float:
        return draw() * min(self.cap, self.first * 2.0 ** min(failures - 1, 60))

    def worth_it(self, error: ProviderError, seconds_left: float | None) -> bool:
        """Tell whether trying again may help, and the wait that the server asks for is bearable."""
        hint = error.retry_after or 0.0
        return is_retryable(error) and hint <= self.longest_hint and (seconds_left is None or hint < seconds_left)


def is_retryable(error: ProviderError) -> bool:
    """Tell whether the same request may succeed later. The server's own word on that counts most."""
    if error.begun:
        return False
    wish, cause = error.should_retry, error.__cause__
    if wish is None and isinstance(cause, ProviderError):  # a provider tells the transport's error in its own name
        wish = cause.should_retry
    if wish is not None:
        return wish
    return isinstance(error, ProviderUnreachableError | ProviderUnavailableError | RateLimitedError)


async def try_again(
    again: Callable[[], Awaitable[T]],
    first: ProviderError,
    *,
    policy: Retry,
    pause: Callable[[float], Awaitable[None]],
    seconds_left: Callable[[], float | None] = lambda: None,
    draw: Callable[[], float] = random.random,
) -> T:
    """Go on after a first failure: wait, call `again`, until it succeeds, fails for good, or the tries are used up.

    The first try is the caller's, so that a call that succeeds at once pays nothing for this.
    """
    from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt

    failed = [first]

    async def attempt() -> T:
        if failed:
            raise failed.pop()
        return await again()

    def worth_it(error: BaseException) -> bool:
        return isinstance(error, ProviderError) and policy.worth_it(error, seconds_left())

    def wait(state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        return policy.delay(error, state.attempt_number, draw) if isinstance(error, ProviderError) else 0.0

    retrying = AsyncRetrying(
        sleep=pause,
        stop=stop_after_attempt(policy.tries),
        wait=wait,
        retry=retry_if_exception(worth_it),
        reraise=True,
    )
    return await retrying(attempt)
