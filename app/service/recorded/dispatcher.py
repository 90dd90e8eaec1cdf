"""Background work of recorded generations: start queued ones, and settle those whose process died."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from app.domain.recorded import RecordedGeneration
from app.service.leases import LeaseKeeper
from app.service.metrics import Metrics
from app.service.resilience.admission import Admission, AdmissionController
from app.store import Storage

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.5
"""Time between two looks into the queue, which other replicas may have filled."""

_MOST_CLAIMS = 50
"""Generations that are claimed with one statement."""

_PAUSE_SECONDS = 0.05
"""Pause after a claim. Slots that become free in this time are filled with one statement."""

_REAPS_PER_LEASE = 3

Start = Callable[[str, RecordedGeneration, Admission], None]
"""Starts a claimed generation with the holder of its lease and a slot."""


class Dispatcher:
    def __init__(
        self,
        controller: AdmissionController,
        storage: Storage,
        leases: LeaseKeeper,
        metrics: Metrics,
        lease_seconds: float,
        start: Start,
        in_progress: Callable[[], int],
        on_reap: Callable[[], None],
    ) -> None:
        """
        Args:
            controller: has the slots.
            storage: where generations are stored.
            leases: of this process.
            metrics: counts interrupted generations.
            lease_seconds: duration of a lease.
            start: starts a claimed generation.
            in_progress: returns how many claimed generations are not settled yet.
            on_reap: called when generations of a dead process were settled, whose webhooks are due.
        """
        self._controller = controller
        self._storage = storage
        self._leases = leases
        self._metrics = metrics
        self._reap_seconds = lease_seconds / _REAPS_PER_LEASE
        self._start = start
        self._in_progress = in_progress
        self._on_reap = on_reap
        self._wake = asyncio.Event()
        self._has_more = False
        """Whether generations were left in the queue because no slot was free."""
        self._tasks: list[asyncio.Task[None]] = []

    def notify(self) -> None:
        """Look into the queue now: a generation was queued."""
        self._wake.set()

    def notify_free_slot(self) -> None:
        """Look into the queue now if generations wait for a slot."""
        if self._has_more:
            self._wake.set()

    async def start(self) -> None:
        self._tasks = [
            asyncio.create_task(self._regularly(self._fill_slots, "queued generations could not be claimed")),
            asyncio.create_task(self._regularly(self._reap, "dead generations could not be settled")),
        ]

    async def aclose(self) -> None:
        for task in self._tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _regularly(self, act: Callable[[], Awaitable[None]], failure: str) -> None:
        while True:
            try:
                await act()
            except Exception as error:  # the next time may succeed
                log.warning(failure, extra={"cause": getattr(error, "cause", repr(type(error)))})
                await asyncio.sleep(_POLL_SECONDS)

    async def _fill_slots(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_POLL_SECONDS):
                await self._wake.wait()
        self._wake.clear()
        if self._controller.draining or not await self._storage.in_use():
            return
        self._has_more = False
        while free := self._free():
            due = await (await self._storage.generations()).due(free + 1)
            if not due:
                return
            await self._claim(min(due, self._free()))
            if due <= free:
                return
            await asyncio.sleep(_PAUSE_SECONDS)
        self._has_more = True

    def _free(self) -> int:
        """Return how many generations can be claimed. Those that are still being stored count like those that run."""
        unstored = self._controller.slots - self._in_progress()
        return max(0, min(self._controller.free_slots, unstored, _MOST_CLAIMS))

    async def _claim(self, count: int) -> None:
        """Claim so many generations. The slots are taken first, so that all claimed ones start."""
        store = await self._storage.generations()
        admissions = [self._controller.admit("queued generations") for _ in range(count)]
        try:
            claimed = await store.claim([self._leases.name() for _ in range(count)])
            for holder, generation in claimed:
                self._start(holder, generation, admissions.pop())
        finally:
            for admission in admissions:
                admission.release()

    async def _reap(self) -> None:
        await asyncio.sleep(self._reap_seconds)
        if not await self._storage.in_use():
            return
        await self._leases.renew()  # after a pause of this process or of the database they may have ended
        if reservations := await (await self._storage.callers()).reap():
            log.warning("reservations of a dead process were settled", extra={"reservations": reservations})
        result = await (await self._storage.generations()).reap()
        self._metrics.record_interrupted(result.interrupted)
        if result.requeued:
            self.notify()
        if result.recovered or result.interrupted:
            self._on_reap()
            log.warning(
                "generations of a dead process were settled",
                extra={"recovered": result.recovered, "interrupted": result.interrupted, "requeued": result.requeued},
            )
