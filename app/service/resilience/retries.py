"""Trying again, in the one place where it is done.

Only what is safe and of use: Gemini said that it did nothing, or was never reached. A call that broke off on its way
may have been billed, so it is made again once at most, and counted. Refusals, quotas of a day and wrong requests never
are.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState

from app.domain.errors import RetrySafety, UpstreamError
from app.domain.progress import GenerationProgress, Retrying, Stage

T = TypeVar("T")


class RetryBudget:
    """Further attempts as a share of the calls that have ended lately, so that a storm is not answered by a storm."""

    WINDOW_SECONDS = 10.0
    AT_LEAST = 20
    """Further attempts in a window that are always allowed; few calls say little."""

    def __init__(self, share: float) -> None:
        """
        Args:
            share: the most further attempts for each call, 0.2 for one in five.
        """
        self._share = share
        self._calls: deque[float] = deque()
        self._retries: deque[float] = deque()

    def count_call(self) -> None:
        """A call's first attempt has ended, however."""
        self._calls.append(time.monotonic())
        self._forget()

    def take(self) -> bool:
        """Whether there may be one more attempt, which is counted then."""
        self._forget()
        if not self._share:
            return False
        if len(self._retries) >= max(self.AT_LEAST, self._share * len(self._calls)):
            return False
        self._retries.append(time.monotonic())
        return True

    def _forget(self) -> None:
        since = time.monotonic() - self.WINDOW_SECONDS
        for times in (self._calls, self._retries):
            while times and times[0] < since:
                times.popleft()


class Retrier:
    """The policy: how often, how long, and at what."""

    def __init__(self, most: int, first_wait_seconds: float, max_wait_seconds: float, budget: RetryBudget) -> None:
        """
        Args:
            most: calls for one image, whatever model is asked, the first included.
            first_wait_seconds: the longest wait before the second attempt, where Gemini asks for none.
            max_wait_seconds: the longest wait before an attempt. Who asks us to wait longer tells the caller.
            budget: what all calls share.
        """
        self._most = most
        self._first_wait = first_wait_seconds
        self._max_wait = max_wait_seconds
        self._budget = budget
        self.doubtful = 0
        """Calls that were made again although the first may have been billed."""

    def left(self, progress: GenerationProgress) -> bool:
        """Whether there may be one more call for this image."""
        return progress.attempts < self._most

    async def make(
        self, call: Callable[[], Awaitable[T]], progress: GenerationProgress, *, another_model: bool = False
    ) -> T:
        """Make the call, again if need be.

        Args:
            call: one call to Gemini, which counts itself in `progress`.
            progress: of the generation.
            another_model: whether another model can serve when this one is short of something. The last call is kept
                for it then.

        Raises:
            ServiceError: what the last attempt came to.
        """
        last: RetryCallState | None = None

        def worth_it(state: RetryCallState) -> bool:
            nonlocal last
            last = state
            if state.attempt_number == 1:
                self._budget.count_call()
            error = _error(state)
            if error is None:
                return False
            progress.ambiguous_failures += error.retry_safety is RetrySafety.ONCE
            return error.retry_safety is RetrySafety.SAFE or (
                error.retry_safety is RetrySafety.ONCE and progress.ambiguous_failures == 1
            )

        def enough(state: RetryCallState) -> bool:
            error = _error(state)
            asked = (error.retry_delay if error else None) or 0
            kept = 1 if another_model and error is not None and error.allows_fallback else 0
            if progress.attempts >= self._most - kept or asked > self._max_wait:
                return True
            if state.upcoming_sleep >= progress.remaining():
                return True
            return not self._budget.take()

        def about_to_wait(state: RetryCallState) -> None:
            error = _error(state)
            assert error is not None
            self.doubtful += error.retry_safety is RetrySafety.ONCE
            progress.notify(Retrying(progress.attempts + 1, round(state.upcoming_sleep, 3), error.code))
            progress.enter(Stage.RETRY)

        retrying = AsyncRetrying(
            sleep=asyncio.sleep, retry=worth_it, wait=self._wait, stop=enough, before_sleep=about_to_wait, reraise=True
        )
        try:
            return await retrying(call)
        finally:
            # Both lead back to themselves, and to everything a request holds.
            if last is not None:
                last.outcome = None
            last = None

    def _wait(self, state: RetryCallState) -> float:
        """What Gemini asks for, and a little more so that not all come back at once; else anything up to a limit that
        doubles (full jitter)."""
        error = _error(state)
        if error is not None and error.retry_delay is not None:
            return error.retry_delay + random.uniform(0, min(1.0, 0.1 * error.retry_delay))  # noqa: S311
        most = min(self._max_wait, self._first_wait * 2 ** (state.attempt_number - 1))
        return random.uniform(0, most)  # noqa: S311


def _error(state: RetryCallState) -> UpstreamError | None:
    error = state.outcome.exception() if state.outcome else None
    return error if isinstance(error, UpstreamError) else None
