"""Storage of chats, recorded generations and callers: rows in a database, bytes in a blob store.

The only package that imports SQLAlchemy and obstore. `Storage` opens both at the first request that needs them, and
imports the modules of this package only then. SQLAlchemy alone takes 0.25 s and 20 MB. A service that makes only plain
images needs neither it nor a writable directory.
"""

import asyncio
import importlib
from typing import TYPE_CHECKING

import anyio.to_thread

from app.settings import Settings

if TYPE_CHECKING:
    from app.store.callers import CallerStore
    from app.store.chats import ChatStore
    from app.store.database import Database
    from app.store.deliveries import DeliveryStore
    from app.store.generations import GenerationStore
    from app.store.leases import Leases
    from app.store.stores import Stores

__all__ = ["Storage"]


class Storage:
    """Opens the stores at first use, and closes them. All share one database and one blob store."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._opening: asyncio.Task[Stores] | None = None
        self._database: Database | None = None
        self._stores: Stores | None = None

    async def in_use(self) -> bool:
        """Return whether anything may be stored, without opening the database."""
        settings = self._settings
        if self._stores is not None or settings.database_url is not None:
            return True
        return await anyio.to_thread.run_sync((settings.data_dir / "chats.db").exists)

    async def chats(self) -> "ChatStore":
        """Return the store, after migrating its database if need be.

        Raises:
            StorageUnavailable, StorageFull: it cannot be opened now. The next call tries again.
        """
        return (await self._opened()).chats

    async def generations(self) -> "GenerationStore":
        """Return the store of recorded generations. Raises as `chats` does."""
        return (await self._opened()).generations

    async def callers(self) -> "CallerStore":
        """Return the store of callers. Raises as `chats` does."""
        return (await self._opened()).callers

    async def leases(self) -> "Leases":
        """Return the leases on rows. Raises as `chats` does."""
        return (await self._opened()).leases

    async def _opened(self) -> "Stores":
        if self._stores is None:
            if self._opening is None or self._opening.done():
                self._opening = asyncio.create_task(self._open())
                # The error is read here: if all tasks that wait are cancelled, asyncio would log it as never retrieved.
                self._opening.add_done_callback(lambda task: task.cancelled() or task.exception())
            self._stores = await asyncio.shield(self._opening)  # concurrent callers share one attempt
        return self._stores

    async def deliveries(self) -> "DeliveryStore":
        """Return the store of deliveries. Raises as `chats` does."""
        return (await self._opened()).deliveries

    async def _open(self) -> "Stores":
        # In threads: importing hundreds of modules and waiting for a disk would block the event loop.
        await anyio.to_thread.run_sync(importlib.import_module, "app.store.stores")
        from app.store.blobs import BlobStore
        from app.store.database import Database
        from app.store.migrate import migrate
        from app.store.stores import Stores

        settings = self._settings
        if self._database is None:
            self._database = await anyio.to_thread.run_sync(Database.from_settings, settings)
        await migrate(self._database, allowed=settings.auto_migrate)
        blobs = await anyio.to_thread.run_sync(BlobStore, settings.blob_url, settings.data_dir)
        return Stores(settings, self._database, blobs)

    async def aclose(self) -> None:
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait({self._opening})
        if self._stores is not None:
            await self._stores.generations.aclose()
        if self._database is not None:
            await self._database.aclose()
