"""Storage of chats: rows in a database, bytes in a blob store. The only package that imports SQLAlchemy and obstore.

`Storage` opens both at the first request for a chat, and imports the modules of this package only then. SQLAlchemy
alone takes 0.25 s and 20 MB. A service that makes only single images needs neither it nor a writable directory.
"""

import asyncio
import importlib
from typing import TYPE_CHECKING

import anyio.to_thread

from app.settings import Settings

if TYPE_CHECKING:
    from app.store.chats import ChatStore
    from app.store.database import Database
    from app.store.deliveries import DeliveryStore

__all__ = ["Storage"]


class Storage:
    """Opens the `ChatStore` at first use, and closes it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._opening: asyncio.Task[ChatStore] | None = None
        self._database: Database | None = None
        self._chats: ChatStore | None = None

    async def in_use(self) -> bool:
        """Return whether chats may be stored, without opening the database."""
        settings = self._settings
        if self._chats is not None or settings.database_url is not None:
            return True
        return await anyio.to_thread.run_sync((settings.data_dir / "chats.db").exists)

    async def chats(self) -> "ChatStore":
        """Return the store, after migrating its database if need be.

        Raises:
            StorageUnavailable, StorageFull: it cannot be opened now. The next call tries again.
        """
        if self._chats is None:
            if self._opening is None or self._opening.done():
                self._opening = asyncio.create_task(self._open())
            self._chats = await asyncio.shield(self._opening)  # concurrent callers share one attempt
        return self._chats

    async def deliveries(self) -> "DeliveryStore":
        """Return the store of deliveries. Raises as `chats` does."""
        await self.chats()
        from app.store.deliveries import LEASE_SECONDS, DeliveryStore

        assert self._database is not None
        return DeliveryStore(self._database, LEASE_SECONDS)

    async def _open(self) -> "ChatStore":
        # In threads: importing hundreds of modules and waiting for a disk would block the event loop.
        await anyio.to_thread.run_sync(importlib.import_module, "app.store.chats")
        from app.store.blobs import BlobStore
        from app.store.chats import ChatStore, StorageLimits
        from app.store.database import Database
        from app.store.migrate import migrate

        settings = self._settings
        if self._database is None:
            self._database = await anyio.to_thread.run_sync(Database.from_settings, settings)
        await migrate(self._database, allowed=settings.auto_migrate)
        blobs = await anyio.to_thread.run_sync(BlobStore, settings.blob_url, settings.data_dir)
        ttl = settings.chat_ttl.total_seconds() or None
        limits = StorageLimits(settings.max_chats_per_caller, settings.max_stored_bytes_per_caller)
        return ChatStore(self._database, blobs, ttl, settings.chat_lease_seconds, limits)

    async def aclose(self) -> None:
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait({self._opening})
        if self._database is not None:
            await self._database.aclose()
