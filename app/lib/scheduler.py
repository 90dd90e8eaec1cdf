"""Taking turns on the event loop.

A thousand images that become ready at the same moment are a thousand pieces of work of a fraction of a millisecond
each. Done in one iteration of the loop they keep everybody else waiting for all of them; with turns, a few are done in
each iteration, in the order they came, and between iterations the loop looks at the network.
"""

import asyncio
import math
from collections import deque

PIECE_BYTES = 256 * 1024
"""One unit of work: so much of an image, as base64, to decode or to encode and send. It takes half a millisecond."""

WORK_PER_ITERATION = 4


def work_in(count: int) -> int:
    """The work that `count` bytes of an image are, or as much of it as one iteration does."""
    return min(math.ceil(count / PIECE_BYTES), WORK_PER_ITERATION)


class FairScheduler:
    """The work that one iteration of the loop may do."""

    def __init__(self) -> None:
        self._done = 0
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()
        self._counting = False

    async def slot(self, work: int = 1) -> None:
        """Return at once if this iteration has work to spare, else in the first one that has.

        Args:
            work: how much is going to be done before the next `await` that waits.
        """
        loop = asyncio.get_running_loop()
        if self._waiting or self._done >= WORK_PER_ITERATION:
            turn = loop.create_future()
            self._waiting.append((turn, work))
            await turn
            return
        self._done += work
        self._count(loop)

    def _count(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._counting:
            self._counting = True
            loop.call_soon(self._next_iteration, loop)

    def _next_iteration(self, loop: asyncio.AbstractEventLoop) -> None:
        self._counting = False
        self._done = 0
        while self._waiting and self._done < WORK_PER_ITERATION:
            turn, work = self._waiting.popleft()
            if not turn.done():  # whoever waited for it may have been cancelled
                turn.set_result(None)
                self._done += work
        if self._done:
            self._count(loop)
