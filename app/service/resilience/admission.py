"""How much is done at once: a number of generations, a queue before them that is fair and short, and an end to it."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from math import ceil, inf

from app.domain.errors import Overloaded

_SLOWNESS = 0.1
"""How much the latest generation counts in the mean of how long they take."""


class AdmissionController:
    """Lets in as many as there are places; the callers who wait take turns, whoever of them has asked more often."""

    def __init__(self, places: int, queue: int, max_wait_seconds: float) -> None:
        """
        Args:
            places: generations under way at once.
            queue: how many may wait.
            max_wait_seconds: how long one may wait. Who would have to wait longer is told so at once.
        """
        self._places = places
        self._queue = queue
        self._max_wait = max_wait_seconds
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self._under_way: set[asyncio.Timeout] = set()
        self._promised = 0  # places that were given to somebody who has not been woken yet
        self._mean_seconds: float | None = None
        self.stopping = False
        """Whether the end has been announced."""
        self.draining = False
        """Whether nothing new is taken on any more."""
        self.on_drain: list[Callable[[], None]] = []
        """Called once when nothing new is taken on any more."""
        self._empty = asyncio.Event()

    @property
    def in_flight(self) -> int:
        return len(self._under_way) + self._promised

    @property
    def queued(self) -> int:
        return sum(map(len, self._waiting.values()))

    def check_capacity(self, caller: str) -> None:
        """Refuse at once what would be refused later.

        Raises:
            Overloaded: with an honest guess of when to come back.
        """
        if self.draining:
            raise Overloaded("This service is about to stop; another one may serve you.", retry_after=1)
        if self.in_flight < self._places:
            return
        expected = self._expected_wait(caller)
        full = self.queued >= self._queue and self._longest_queue(caller) is None
        if full or expected > self._max_wait:
            raise Overloaded(
                f"{self.in_flight} images are being made and {self.queued} are waiting.",
                retry_after=max(1, ceil(expected)),
            )

    @asynccontextmanager
    async def admit(self, caller: str, patience: float = inf) -> AsyncGenerator[None]:
        """A place for as long as the block lasts.

        Args:
            caller: whose turn it is to be.
            patience: how many seconds they are willing to wait.

        Raises:
            TimeoutError: they would have had to wait longer.
            Overloaded: there is no room, waiting took too long, or the service stops before the block is done.
        """
        self.check_capacity(caller)
        if self.in_flight >= self._places:
            await self._wait_for_turn(caller, patience)
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout(None) as limit:
                self._under_way.add(limit)
                try:
                    yield
                    self._learn(loop.time() - began)  # what fails at once says nothing of how long an image takes
                finally:
                    self._under_way.discard(limit)
                    self._let_in()
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise Overloaded("This service stopped before the image was there.", retry_after=1) from error

    def drain(self) -> None:
        """Let nobody in any more; whoever waits is sent away, whoever is in may finish."""
        self.stopping = self.draining = True
        for stop in self.on_drain:
            stop()
        for waiting in self._waiting.values():
            for turn in waiting:
                if not turn.done():
                    turn.set_exception(Overloaded("This service is about to stop.", retry_after=1))
        self._waiting.clear()
        self._let_in()

    async def wait_idle(self) -> None:
        """Return once nobody is in any more."""
        while self.in_flight:
            self._empty.clear()
            await self._empty.wait()

    def abort_all(self) -> None:
        """Send everybody away."""
        now = asyncio.get_running_loop().time()
        for limit in self._under_way:
            if not limit.expired():
                limit.reschedule(now)

    async def _wait_for_turn(self, caller: str, patience: float) -> None:
        if self.queued >= self._queue:
            self._make_room_for(caller)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(caller, deque()).append(turn)
        try:
            async with asyncio.timeout(min(self._max_wait, patience)):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._promised -= 1  # a place came free at that very moment
                self._let_in()
            else:
                self._forget(caller, turn)
            if isinstance(error, TimeoutError) and self._max_wait <= patience:
                wait = max(1, ceil(self._expected_wait(caller)))
                raise Overloaded(f"No place was free within {self._max_wait:g} s.", retry_after=wait) from error
            raise
        self._promised -= 1

    def _longest_queue(self, caller: str) -> str | None:
        """Who has so many waiting that one of them has to make room for a first, or a second, of `caller`."""
        if not self._waiting:
            return None
        most = max(self._waiting, key=lambda one: len(self._waiting[one]))
        own = len(self._waiting.get(caller, ()))
        return most if len(self._waiting[most]) > own + 1 else None

    def _make_room_for(self, caller: str) -> None:
        greediest = self._longest_queue(caller)
        if greediest is None:
            raise Overloaded("The queue is full.", retry_after=max(1, ceil(self._expected_wait(caller))))
        last = self._waiting[greediest][-1]
        self._forget(greediest, last)
        if not last.done():
            wait = max(1, ceil(self._expected_wait(greediest)))
            last.set_exception(Overloaded("Others, who have asked for less, go first.", retry_after=wait))

    def _forget(self, caller: str, turn: asyncio.Future[None]) -> None:
        waiting = self._waiting.get(caller, deque())
        if turn in waiting:
            waiting.remove(turn)
        if not waiting:
            self._waiting.pop(caller, None)

    def _let_in(self) -> None:
        while self._waiting and self.in_flight < self._places:
            caller, waiting = self._waiting.popitem(last=False)
            turn = waiting.popleft()
            if waiting:
                self._waiting[caller] = waiting  # behind the others
            if not turn.done():
                self._promised += 1
                turn.set_result(None)
        if not self.in_flight:
            self._empty.set()

    def _learn(self, seconds: float) -> None:
        before = seconds if self._mean_seconds is None else self._mean_seconds
        self._mean_seconds = before + _SLOWNESS * (seconds - before)

    def _expected_wait(self, caller: str) -> float:
        """Seconds until a newcomer's turn, by how long generations have taken lately."""
        own = len(self._waiting.get(caller, ()))
        ahead = sum(min(len(waiting), own + 1) for one, waiting in self._waiting.items() if one != caller) + own
        return (ahead + 1) * (self._mean_seconds or 0.0) / self._places
