"""Removes what has expired, at regular times: generations, chats, and blobs that nothing refers to."""

import asyncio
import logging
import random

from app.service.periodic import PeriodicTask
from app.store import Storage

log = logging.getLogger(__name__)


class StorageCleanup(PeriodicTask):
    def __init__(self, storage: Storage, seconds: float) -> None:
        """
        Args:
            storage: what is cleaned up.
            seconds: average time between two cleanups.
        """
        self._storage = storage
        self._interval = seconds
        super().__init__(self._run_if_in_use, 0, "cleanup failed")

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

    async def _run_if_in_use(self) -> None:
        # Replicas start together, so they vary the time.
        await asyncio.sleep(self._interval * random.uniform(0.8, 1.2))  # noqa: S311
        if await self._storage.in_use():
            await self.run()
