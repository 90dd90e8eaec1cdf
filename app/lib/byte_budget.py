"""A limit on bytes that are held at the same time, and the part of it that each request has reserved."""

import asyncio
from collections import deque


class ByteBudget:
    """A limit in bytes. Requests that do not fit wait in FIFO order."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()

    def fits(self, count: int) -> bool:
        """Return whether `count` bytes fit now.

        While nothing is used, any number fits, even over the limit, because waiting could not help.
        """
        return not self._waiting and self._has(count)

    async def acquire(self, count: int) -> None:
        """Wait until `count` more bytes fit, and count them as used."""
        if self.fits(count):
            self.used += count
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((future, count))
        try:
            await future
        except BaseException:
            self.adjust(-count if future.done() and not future.cancelled() else 0)
            raise

    def adjust(self, count: int) -> None:
        """Add `count` to the used bytes without waiting, even over the limit. A negative number frees bytes."""
        self.used += count
        while self._waiting and (self._waiting[0][0].done() or self._has(self._waiting[0][1])):
            future, wanted = self._waiting.popleft()
            if not future.done():
                self.used += wanted
                future.set_result(None)

    def _has(self, count: int) -> bool:
        return not self.used or self.used + count <= self.limit


class Reservation:
    """The bytes of a budget that one request holds. `resize(0)` frees all of them."""

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget
        self.held = 0

    async def acquire(self, count: int) -> None:
        """Wait until `count` more bytes fit, and hold them."""
        await self._budget.acquire(count)
        self.held += count

    def resize(self, count: int) -> None:
        """Hold exactly `count` bytes from now on, without waiting. `acquire` may have reserved an estimate."""
        difference, self.held = count - self.held, count
        self._budget.adjust(difference)
