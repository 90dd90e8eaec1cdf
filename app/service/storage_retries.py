"""Storing something that has been paid for, also if the storage is away for a moment."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from app.domain.errors import StorageFull, StorageUnavailable

log = logging.getLogger(__name__)

T = TypeVar("T")

SAVE_SECONDS = 20.0
"""How long storing is retried while the storage is unavailable."""


async def persistently(store: Callable[[], Awaitable[T]]) -> T:
    """Await `store()`, and repeat it for `SAVE_SECONDS` while the storage is unavailable or full.

    Raises:
        StorageUnavailable, StorageFull: of the last try.
    """
    loop = asyncio.get_running_loop()
    deadline, pause = loop.time() + SAVE_SECONDS, 0.25
    while True:
        try:
            return await store()
        except (StorageUnavailable, StorageFull) as error:
            if loop.time() + pause > deadline:
                raise
            log.warning("storing is retried", extra={"part": error.part, "cause": error.cause})
        await asyncio.sleep(pause)
        pause *= 2
