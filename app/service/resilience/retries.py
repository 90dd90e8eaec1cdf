"""Retries of calls to Gemini. Nothing else in the service retries them.

A call is retried if it certainly cost nothing: Gemini said so, or was never reached. A call that broke off on its way
may have been billed (`RetrySafety.ONCE`). It is retried once per generation at most, and counted. Refusals, daily
quotas and invalid requests are never retried.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeVar

from app.domain.errors import RetrySafety, UpstreamError
from app.domain.progress import GenerationProgress, Retrying, Stage

T = TypeVar("T")


class RetryBudget:
    """Limit retries to a share of recent calls, so that retries do not overload a failing Gemini further."""

    WINDOW_SECONDS = 10.0
    AT_LEAST = 20
    """Retries per window that are always allowed, because a share of few calls would be too small."""

    def __init__(self, share: float) -> None:
        """
        Args:
            share: retries allowed per call, 0.2 for one in five. 0 turns retrying off.
        """
        self._share = share
        self._calls: deque[float] = deque()
        self._retries: deque[float] = deque()

    def count_call(self) -> None:
        """Count a first call that has ended."""
        self._calls.append(time.monotonic())
        self._forget_old()

    def acquire(self) -> bool:
        """Return whether one more retry is allowed, and count it if so."""
        self._forget_old()
        if not self._share:
            return False
        if len(self._retries) >= max(self.AT_LEAST, self._share * len(self._calls)):
            return False
        self._retries.append(time.monotonic())
        return True

    def _forget_old(self) -> None:
        since = time.monotonic() - self.WINDOW_SECONDS
        for times in (self._calls, self._retries):
            while times and times[0] < since:
                times.popleft()


class Retrier:
    """Retry policy: which errors, how many calls, and how long to wait."""

    def __init__(
        self, max_calls: int, initial_backoff_seconds: float, max_backoff_seconds: float, budget: RetryBudget
    ) -> None:
        """
        Args:
            max_calls: calls per generation, over all models, the first included.
            initial_backoff_seconds: upper bound of the first wait. It doubles with each retry. It does not apply if
                Gemini names a delay.
            max_backoff_seconds: upper bound of each wait. If Gemini names a longer delay, the error goes to the caller.
            budget: shared by all generations.
        """
        self._max_calls = max_calls
        self._initial_backoff = initial_backoff_seconds
        self._max_backoff = max_backoff_seconds
        self._budget = budget
        self.ambiguous_retries = 0
        """Retries of calls that may have been billed, since the start."""

    def has_calls_left(self, progress: GenerationProgress) -> bool:
        return progress.attempts < self._max_calls

    async def call(
        self, attempt: Callable[[], Awaitable[T]], progress: GenerationProgress, *, has_fallback: bool = False
    ) -> T:
        """Await `attempt()` until it succeeds or a retry is not allowed.

        Args:
            attempt: one call to Gemini, which counts itself in `progress`.
            progress: of the generation.
            has_fallback: whether another model can be asked afterwards. Then the last call is reserved for it.

        Raises:
            UpstreamError: of the last call.
        """
        number = 0
        while True:
            try:
                return await attempt()
            except UpstreamError as error:
                is_ambiguous = error.retry_safety is RetrySafety.ONCE
                progress.ambiguous_failures += is_ambiguous
                wait = self._backoff(error, number)
                if not self._may_retry(error, wait, progress, has_fallback):
                    raise
                if is_ambiguous and not await progress.allows_repetition():
                    raise
                self.ambiguous_retries += is_ambiguous
                progress.notify(Retrying(progress.attempts + 1, round(wait, 3), error.code))
                progress.enter(Stage.RETRY)
            finally:
                if number == 0:
                    self._budget.count_call()
            await asyncio.sleep(wait)
            number += 1

    def _may_retry(self, error: UpstreamError, wait: float, progress: GenerationProgress, has_fallback: bool) -> bool:
        is_first_ambiguous = error.retry_safety is RetrySafety.ONCE and progress.ambiguous_failures == 1
        reserved = 1 if has_fallback and error.allows_fallback else 0
        return (
            (error.retry_safety is RetrySafety.SAFE or is_first_ambiguous)
            and progress.attempts < self._max_calls - reserved
            and (error.retry_delay or 0) <= self._max_backoff
            and wait < progress.remaining()
            and self._budget.acquire()
        )

    def _backoff(self, error: UpstreamError, number: int) -> float:
        """Return the seconds to wait: Gemini's delay plus up to 10 % jitter, otherwise backoff with full jitter."""
        if error.retry_delay is not None:
            return error.retry_delay + random.uniform(0, min(1.0, 0.1 * error.retry_delay))  # noqa: S311
        return random.uniform(0, min(self._max_backoff, self._initial_backoff * 2**number))  # noqa: S311
