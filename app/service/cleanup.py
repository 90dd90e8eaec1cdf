"""Removes what has expired, at regular times: generations, chats, and blobs that nothing refers to."""

import asyncio
import logging
import random
from contextlib import suppress
from typing import Self

from app.store import Storage

log = logging.getLogger(__name__)


class StorageCleanup:
    def __init__(self, storage: Storage, seconds: float) -> None:
        """
        Args:
            storage: what is cleaned up.
            seconds: average time between two cleanups.
        """
        self._storage = storage
        self._seconds = seconds
        self._task: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Remove expired generations and chats, and blobs that neither refers to."""
        generations = await (await self._storage.generations()).sweep()
        result = await (await self._storage.chats()).cleanup()
        log.info(
            "cleanup",
            extra={
                "generations": generations,
                "chats": result.chats,
                "blobs": result.blobs,
                "unfinished": result.unfinished,
            },
        )

    async def _run_regularly(self) -> None:
        while True:
            # Replicas start together, so they vary the time.
            await asyncio.sleep(self._seconds * random.uniform(0.8, 1.2))  # noqa: S311
            try:
                if await self._storage.in_use():
                    await self.run()
            except Exception as error:  # the next cleanup may succeed
                log.warning("cleanup failed", extra={"cause": getattr(error, "cause", repr(type(error)))})

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run_regularly())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
