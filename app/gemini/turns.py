"""One after another, with a look at the network in between."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager


class Turns:
    """For work that keeps the event loop busy for a millisecond or two.

    When many callers come at the same moment, each does its work in an iteration of the loop of its own, so that others
    wait for one of them and not for all.
    """

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def turn(self) -> AsyncGenerator[Callable[[], None]]:
        """Wait for a turn. It is over when what is yielded is called, or at the end of the block."""
        await self._lock.acquire()
        over = False

        def end() -> None:
            nonlocal over
            if not over:
                over = True
                self._lock.release()

        try:
            await asyncio.sleep(0)
            yield end
        finally:
            end()
