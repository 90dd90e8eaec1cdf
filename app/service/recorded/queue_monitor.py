"""Counts queued and running generations of all replicas at regular times, for metrics."""

import math
import time
from dataclasses import dataclass

from app.service.periodic import PeriodicTask
from app.service.scraped_metrics import ScrapedMetric
from app.store import Storage

_INTERVAL_SECONDS = 5.0
_VALID_SECONDS = 20.0
"""Age of counts that are unknown rather than shown, because the database has not answered since then."""


@dataclass(frozen=True, slots=True)
class _Counts:
    queued: float = 0
    running: float = 0
    oldest_queued_seconds: float = 0


_UNKNOWN = _Counts(math.nan, math.nan, math.nan)
"""The database does not answer."""


class QueueMonitor(PeriodicTask):
    """Counts while its block runs. A scrape reads the last counts, because it cannot wait for the database."""

    def __init__(self, storage: Storage, max_queued: int) -> None:
        """
        Args:
            storage: where generations are stored.
            max_queued: the most asynchronous generations that wait.
        """
        self._storage = storage
        self._max_queued = max_queued
        self._last = _Counts()
        self._counted_at = time.monotonic()
        super().__init__(self._count, _INTERVAL_SECONDS, "generations could not be counted")

    def metrics(self) -> list[ScrapedMetric]:
        """Return the metrics with the last counts. They are NaN while the database does not answer."""
        return [
            ScrapedMetric(
                "async_queued",
                "Asynchronous generations that wait, over all replicas.",
                lambda: self._counts.queued,
            ),
            ScrapedMetric(
                "async_queue_limit",
                "Largest number of asynchronous generations that may wait (MAX_QUEUED_ASYNC).",
                lambda: self._max_queued,
            ),
            ScrapedMetric(
                "recorded_running", "Recorded generations that run, over all replicas.", lambda: self._counts.running
            ),
            ScrapedMetric(
                "async_oldest_queued_seconds",
                "Seconds since the oldest asynchronous generation that waits was ordered.",
                lambda: self._counts.oldest_queued_seconds,
            ),
        ]

    @property
    def _counts(self) -> _Counts:
        return self._last if time.monotonic() - self._counted_at < _VALID_SECONDS else _UNKNOWN

    async def _count(self) -> None:
        try:
            if await self._storage.in_use():
                counts = await (await self._storage.generations()).counts()
                self._last = _Counts(counts.queued, counts.running, counts.oldest_queued_seconds)
        except BaseException:
            self._last = _UNKNOWN
            raise
        finally:
            self._counted_at = time.monotonic()
