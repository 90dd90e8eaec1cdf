"""Limit the generations that run at once. Other requests wait in a short queue that is fair between callers."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from math import ceil, inf

from app.domain.errors import Overloaded

_NEWEST_WEIGHT = 0.1
"""Weight of the newest generation in the moving average of durations."""


class AdmissionController:
    """A limited number of slots, and one queue per caller. Free slots go to the callers in turn."""

    def __init__(self, slots: int, queue: int, max_wait_seconds: float) -> None:
        """
        Args:
            slots: generations that run at once.
            queue: requests that may wait.
            max_wait_seconds: longest time in the queue. A request that is expected to wait longer is rejected at once.
        """
        self.slots = slots
        """Generations that run at once."""
        self._queue = queue
        self._max_wait = max_wait_seconds
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self._patient: deque[asyncio.Future[None]] = deque()
        self._running: set[asyncio.Timeout] = set()
        self._granted = 0  # slots of admissions whose `slot` block has not begun yet
        self._mean_seconds: float | None = None
        self.stopping = False
        """True once a shutdown has been announced."""
        self.draining = False
        """True once new requests are rejected."""
        self.on_drain: list[Callable[[], None]] = []
        """Called once, when new requests begin to be rejected."""
        self._aborted = False
        self._delivering = 0
        self._idle = asyncio.Event()

    @property
    def in_flight(self) -> int:
        return len(self._running) + self._granted

    @property
    def queued(self) -> int:
        return sum(map(len, self._waiting.values()))

    @property
    def free_slots(self) -> int:
        """Slots that `admit` gives at once; 0 if requests wait, or if the service stops."""
        return 0 if self.draining or self._waiting or self._patient else max(0, self.slots - self.in_flight)

    def check_open(self) -> None:
        """Raise if the service is about to stop.

        Raises:
            Overloaded: it is.
        """
        if self.draining:
            raise Overloaded("This service is about to stop. Send the request again.", retry_after=1)

    def check_capacity(self, caller: str) -> None:
        """Raise if `admit` would raise now. The check before a request's body is read.

        Raises:
            Overloaded: the queue is full, the expected wait is too long, or the service stops. `retry_after` is an
                estimate of the wait.
        """
        self.check_open()
        if self.in_flight < self.slots:
            return
        expected = self._expected_wait(caller)
        full = self.queued >= self._queue and self._longest_queue(caller) is None
        if full or expected > self._max_wait:
            raise Overloaded(
                f"{self.in_flight} generations are running and {self.queued} are waiting.",
                retry_after=max(1, ceil(expected)),
            )

    def admit(self, caller: str, *, patient: bool = False) -> "Admission":
        """Give a slot or a position in the queue to a request of `caller`.

        Args:
            caller: who asked.
            patient: wait as long as it takes, also behind a full queue: nobody waits for the response.

        Raises:
            Overloaded: as `check_capacity`. A patient request is refused only if the service stops.
        """
        self.check_open() if patient else self.check_capacity(caller)
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.in_flight < self.slots:
            self._grant(granted)
        else:
            if patient:
                self._patient.append(granted)
                return Admission(self, caller, granted, is_patient=True)
            if self.queued >= self._queue:
                self._evict_for(caller)
            self._waiting.setdefault(caller, deque()).append(granted)
        return Admission(self, caller, granted, is_patient=patient)

    def drain(self) -> None:
        """Reject new and waiting requests. Running generations may finish."""
        self.stopping = self.draining = True
        for callback in self.on_drain:
            callback()
        for queue in (*self._waiting.values(), self._patient):
            for granted in queue:
                if not granted.done():
                    granted.set_exception(Overloaded("This service is about to stop.", retry_after=1))
        self._waiting.clear()
        self._patient.clear()
        self._fill_slots()

    async def wait_idle(self) -> None:
        """Return once no generation is running, and all `delivering` blocks have ended."""
        while self.in_flight or self._delivering:
            self._idle.clear()
            await self._idle.wait()

    @contextmanager
    def delivering(self) -> Iterator[None]:
        """Keep `wait_idle` waiting for the length of the block: until an image can be sent. It needs no slot."""
        self._delivering += 1
        try:
            yield
        finally:
            self._delivering -= 1
            if not self._delivering:
                self._idle.set()

    def abort_all(self) -> None:
        """End all running generations with `Overloaded`, and start none whose slot has been granted."""
        self._aborted = True
        now = asyncio.get_running_loop().time()
        for limit in self._running:
            if not limit.expired():
                limit.reschedule(now)

    async def wait_for_slot(self, admission: "Admission", max_wait: float) -> None:
        """See `Admission.slot`."""
        own_limit = inf if admission.is_patient else self._max_wait
        if not admission.granted.done():
            try:
                async with asyncio.timeout(min(own_limit, max_wait)):
                    await admission.granted
            except TimeoutError as error:
                if own_limit > max_wait:
                    raise
                wait = max(1, ceil(self._expected_wait(admission.caller)))
                raise Overloaded(f"No slot was free within {self._max_wait:g} s.", retry_after=wait) from error
        admission.granted.result()
        if self._aborted:
            raise Overloaded("This service is about to stop.", retry_after=1)

    @asynccontextmanager
    async def run(self) -> AsyncGenerator[None]:
        """Use a granted slot for the length of the block. `abort_all` ends the block with `Overloaded`."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        self._granted -= 1
        try:
            async with asyncio.timeout(None) as limit:
                self._running.add(limit)
                try:
                    yield
                    # A failure is not measured: it may come at once, and says nothing about the time an image takes.
                    self._record_duration(loop.time() - began)
                finally:
                    self._running.discard(limit)
                    self._fill_slots()
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise Overloaded("This service stopped before the image was complete.", retry_after=1) from error

    def give_up(self, admission: "Admission") -> None:
        """See `Admission.release`."""
        granted = admission.granted
        if admission.is_granted:
            self._granted -= 1
            self._fill_slots()
        else:
            self._remove(admission.caller, granted)

    def _longest_queue(self, caller: str) -> str | None:
        """Return the caller with the longest queue, if it is more than one longer than that of `caller`."""
        if not self._waiting:
            return None
        longest = max(self._waiting, key=lambda one: len(self._waiting[one]))
        own = len(self._waiting.get(caller, ()))
        return longest if len(self._waiting[longest]) > own + 1 else None

    def _evict_for(self, caller: str) -> None:
        """Evict the newest request of the longest queue, so that one of `caller` can wait instead."""
        longest = self._longest_queue(caller)
        if longest is None:
            raise Overloaded("The queue is full.", retry_after=max(1, ceil(self._expected_wait(caller))))
        newest = self._waiting[longest][-1]
        self._remove(longest, newest)
        if not newest.done():
            wait = max(1, ceil(self._expected_wait(longest)))
            newest.set_exception(
                Overloaded("The queue is full, and callers with fewer requests go first.", retry_after=wait)
            )

    def _remove(self, caller: str, granted: asyncio.Future[None]) -> None:
        if granted in self._patient:
            return self._patient.remove(granted)
        queue = self._waiting.get(caller, deque())
        if granted in queue:
            queue.remove(granted)
        if not queue:
            self._waiting.pop(caller, None)

    def _grant(self, granted: asyncio.Future[None]) -> None:
        self._granted += 1
        granted.set_result(None)

    def _fill_slots(self) -> None:
        """Give free slots to the patient requests, which are few, and then to one request per caller in turn."""
        while self._patient and self.in_flight < self.slots:
            granted = self._patient.popleft()
            if not granted.done():
                self._grant(granted)
        while self._waiting and self.in_flight < self.slots:
            caller, queue = self._waiting.popitem(last=False)
            granted = queue.popleft()
            if queue:
                self._waiting[caller] = queue  # behind the other callers
            if not granted.done():
                self._grant(granted)
        if not self.in_flight:
            self._idle.set()

    def _record_duration(self, seconds: float) -> None:
        before = seconds if self._mean_seconds is None else self._mean_seconds
        self._mean_seconds = before + _NEWEST_WEIGHT * (seconds - before)

    def _expected_wait(self, caller: str) -> float:
        """Estimate the seconds that a new request of `caller` would wait, from the average duration."""
        own = len(self._waiting.get(caller, ()))
        ahead = sum(min(len(queue), own + 1) for one, queue in self._waiting.items() if one != caller) + own
        return (ahead + 1) * (self._mean_seconds or 0.0) / self.slots


class Admission:
    """A slot, or a position in the queue. It is used once by `slot`, or given up by `release`."""

    def __init__(
        self, controller: AdmissionController, caller: str, granted: asyncio.Future[None], *, is_patient: bool
    ) -> None:
        self._controller = controller
        self._used = False
        self.caller = caller
        self.is_patient = is_patient
        """Whether it waits longer than the queue's own limit."""
        self.granted = granted
        """Done when the slot is granted; holds `Overloaded` when the request is evicted or the service stops."""

    @property
    def is_granted(self) -> bool:
        """Whether the slot is granted, so that `slot` does not wait."""
        return self.granted.done() and not self.granted.cancelled() and self.granted.exception() is None

    @asynccontextmanager
    async def slot(self, max_wait: float = inf) -> AsyncGenerator[None]:
        """Wait for the slot, and hold it for the length of the block.

        Args:
            max_wait: seconds that the caller is willing to wait.

        Raises:
            TimeoutError: the caller would have to wait longer.
            Overloaded: no slot was free in time, the request was evicted, or the service stopped.
        """
        try:
            await self._controller.wait_for_slot(self, max_wait)
        except BaseException:
            self.release()
            raise
        self._used = True
        async with self._controller.run():
            yield

    def release(self) -> None:
        """Give up the slot or the position if it has not been used."""
        if not self._used:
            self._used = True
            self._controller.give_up(self)
