"""Work in the background at regular times."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import Context
from typing import Self

log = logging.getLogger(__name__)


class PeriodicTask:
    """Awaits `act()` again and again between `__aenter__` and `__aexit__`.

    A failure is logged as a warning, further ones after it only for debugging. The next time may succeed.
    """

    def __init__(self, act: Callable[[], Awaitable[object]], seconds: float, failure: str) -> None:
        """
        Args:
            act: what to do.
            seconds: pause after each time.
            failure: log message if it raises an error.
        """
        self._act = act
        self._seconds = seconds
        self._failure = failure
        self._task: asyncio.Task[None] | None = None

    async def _repeat(self) -> None:
        level = logging.WARNING
        while True:
            try:
                await self._act()
                level = logging.WARNING
            except Exception as error:
                log.log(level, self._failure, extra={"cause": getattr(error, "cause", repr(type(error)))})
                level = logging.DEBUG
            await asyncio.sleep(self._seconds)

    async def __aenter__(self) -> Self:
        # In its own context: the task is not part of the request that may have started it.
        self._task = asyncio.create_task(self._repeat(), context=Context())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
