"""Limit the CPU work in one iteration of the event loop.

If 1,000 images arrive at once, each needs a fraction of a millisecond of CPU. Done in one iteration, all this work
would block the event loop. `FairScheduler` spreads it over several iterations in FIFO order, and the event loop handles
its sockets between them.
"""

import asyncio
import math
from collections import deque

PIECE_BYTES = 256 * 1024
"""Base64 bytes of an image that are one unit of work to decode, or to encode and send. One unit takes 0.5 ms."""

WORK_PER_ITERATION = 4
"""Units of work in one iteration of the event loop."""


def work_in(count: int) -> int:
    """Return the units of work for `count` bytes of an image, at most those of one iteration."""
    return min(math.ceil(count / PIECE_BYTES), WORK_PER_ITERATION)


class FairScheduler:
    """Gives each iteration of the event loop `WORK_PER_ITERATION` units of work."""

    def __init__(self) -> None:
        self._done = 0
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()
        self._is_reset_scheduled = False

    async def slot(self, work: int = 1) -> None:
        """Wait for an iteration that has units of work left. Return at once if the current one has.

        Args:
            work: units of work that the caller does before it next waits for something else.
        """
        loop = asyncio.get_running_loop()
        if self._waiting or self._done >= WORK_PER_ITERATION:
            future = loop.create_future()
            self._waiting.append((future, work))
            await future
            return
        self._done += work
        self._schedule_reset(loop)

    def _schedule_reset(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._is_reset_scheduled:
            self._is_reset_scheduled = True
            loop.call_soon(self._begin_iteration, loop)

    def _begin_iteration(self, loop: asyncio.AbstractEventLoop) -> None:
        self._is_reset_scheduled = False
        self._done = 0
        while self._waiting and self._done < WORK_PER_ITERATION:
            future, work = self._waiting.popleft()
            if not future.done():  # a waiting task may have been cancelled
                future.set_result(None)
                self._done += work
        if self._done:
            self._schedule_reset(loop)
