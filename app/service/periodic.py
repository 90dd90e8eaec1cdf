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

    # Two underscores: subclasses have attributes of their own.

    def __init__(self, act: Callable[[], Awaitable[object]], seconds: float, failure: str) -> None:
        """
        Args:
            act: what to do.
            seconds: pause after each time.
            failure: log message if it raises an error.
        """
        self.__act = act
        self.__seconds = seconds
        self.__failure = failure
        self.__task: asyncio.Task[None] | None = None

    async def _repeat(self) -> None:
        level = logging.WARNING
        while True:
            try:
                await self.__act()
                level = logging.WARNING
            except Exception as error:
                log.log(level, self.__failure, extra={"cause": getattr(error, "cause", repr(type(error)))})
                level = logging.DEBUG
            await asyncio.sleep(self.__seconds)

    async def __aenter__(self) -> Self:
        # In its own context: the task is not part of the request that may have started it.
        self.__task = asyncio.create_task(self._repeat(), context=Context())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self.__task is not None
        self.__task.cancel()
        with suppress(asyncio.CancelledError):
            await self.__task
