"""Where chats are kept: rows in a database, bytes in a blob store. The only package that knows either of them.

`Storage` opens both when somebody first asks for a chat. Nothing else of the package is imported before: SQLAlchemy
alone takes a quarter of a second and 20 MB, and whoever makes single images needs neither it nor a folder to write to.
"""

import asyncio
import importlib
from typing import TYPE_CHECKING

import anyio.to_thread

from app.settings import Settings

if TYPE_CHECKING:
    from app.store.chats import ChatStore
    from app.store.database import Database

__all__ = ["Storage"]


class Storage:
    """The way to the `ChatStore`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._opening: asyncio.Task[ChatStore] | None = None
        self._database: Database | None = None
        self._chats: ChatStore | None = None

    async def in_use(self) -> bool:
        """Whether there is something in it, as far as one can tell without opening it."""
        settings = self._settings
        if self._chats is not None or settings.database_url is not None:
            return True
        return await anyio.to_thread.run_sync((settings.data_dir / "chats.db").exists)

    async def chats(self) -> "ChatStore":
        """The store, with a database that is up to date.

        Raises:
            StorageUnavailable, StorageFull: it cannot be opened now. Another time it may.
        """
        if self._chats is None:
            if self._opening is None or self._opening.done():
                self._opening = asyncio.create_task(self._opened())
            self._chats = await asyncio.shield(self._opening)  # all who wait learn what became of the same attempt
        return self._chats

    async def _opened(self) -> "ChatStore":
        # The event loop has better things to do than to read a few hundred modules, or to wait for a disk.
        await anyio.to_thread.run_sync(importlib.import_module, "app.store.chats")
        from app.store.blobs import BlobStore
        from app.store.chats import ChatStore, Limits
        from app.store.database import Database
        from app.store.migrate import migrate

        settings = self._settings
        if self._database is None:
            self._database = await anyio.to_thread.run_sync(Database.of, settings)
        await migrate(self._database, allowed=settings.auto_migrate)
        files = await anyio.to_thread.run_sync(BlobStore, settings.blob_url, settings.data_dir)
        ttl = settings.chat_ttl.total_seconds() or None
        limits = Limits(settings.max_chats_per_caller, settings.max_stored_bytes_per_caller)
        return ChatStore(self._database, files, ttl, settings.chat_lease_seconds, limits)

    async def aclose(self) -> None:
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait({self._opening})
        if self._database is not None:
            await self._database.aclose()
