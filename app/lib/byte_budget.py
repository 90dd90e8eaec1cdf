"""A bound on the bytes that are held at once, and the share of it that each request has."""

import asyncio
from collections import deque


class ByteBudget:
    """So many bytes. Whoever needs more than are free waits, in the order they came."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()

    def fits(self, count: int) -> bool:
        """Whether there is room now. Somebody who is alone always fits: waiting would not help them."""
        return not self._waiting and self._has(count)

    async def acquire(self, count: int) -> None:
        """Hold `count` bytes more, once there is room."""
        if self.fits(count):
            self.used += count
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((turn, count))
        try:
            await turn
        except BaseException:
            self.adjust(-count if turn.done() and not turn.cancelled() else 0)
            raise

    def adjust(self, count: int) -> None:
        """Hold so many bytes more or, if negative, fewer; at once, be there room or not."""
        self.used += count
        while self._waiting and (self._waiting[0][0].done() or self._has(self._waiting[0][1])):
            turn, wanted = self._waiting.popleft()
            if not turn.done():
                self.used += wanted
                turn.set_result(None)

    def _has(self, count: int) -> bool:
        return not self.used or self.used + count <= self.limit


class Reservation:
    """What one request holds of a room. It is given back all at once, however the request ends."""

    def __init__(self, room: ByteBudget) -> None:
        self._room = room
        self.held = 0

    async def acquire(self, count: int) -> None:
        """Hold `count` bytes more, once there is room."""
        await self._room.acquire(count)
        self.held += count

    def resize(self, count: int) -> None:
        """Hold exactly `count` bytes from now on: what was taken was an estimate."""
        more, self.held = count - self.held, count
        self._room.adjust(more)
