"""The database: SQLite in a file, or PostgreSQL; what differs between them is said here."""

import asyncio
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Double, event, literal_column
from sqlalchemy.engine import URL, Connection, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from app.errors import StorageUnavailable
from app.settings import Settings
from app.store.failures import as_storage_errors

STATEMENT_SECONDS = 15
"""How long a transaction may take; all of ours are short."""

_BUSY_SECONDS = 10
_CONNECT_SECONDS = 5


class Database:
    """Connections, and transactions of the two kinds."""

    def __init__(self, url: str | None, directory: Path) -> None:
        """
        Args:
            url: where it is; `sqlite:///…` or `postgresql://…`. Without one it is a file in `directory`.
            directory: made if need be.

        Raises:
            StorageUnavailable: that is no URL, or the directory cannot be made.
        """
        self.url = _url_of(url, directory)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        if self.is_sqlite and self.url.database:
            with as_storage_errors("database"):
                Path(self.url.database).parent.mkdir(parents=True, exist_ok=True)
        self._engine = _engine(self.url, is_sqlite=self.is_sqlite)

    @classmethod
    def of(cls, settings: Settings) -> "Database":
        """The one that the settings name. As the constructor otherwise."""
        url = settings.database_url.get_secret_value() if settings.database_url else None
        return cls(url, settings.data_dir)

    @property
    def now(self) -> ColumnElement[float]:
        """The time as the database has it."""
        text = "(julianday('now') - 2440587.5) * 86400.0" if self.is_sqlite else "extract(epoch from clock_timestamp())"
        return literal_column(text, Double)

    @asynccontextmanager
    async def reading(self) -> AsyncGenerator[AsyncConnection]:
        """A transaction that sees one state of the database, and changes none.

        Raises:
            StorageUnavailable, StorageFull: as it turns out.
        """
        async with self._transaction(writes=False) as connection:
            yield connection

    @asynccontextmanager
    async def writing(self) -> AsyncGenerator[AsyncConnection]:
        """A transaction that is durable once the block is left.

        Raises:
            StorageUnavailable, StorageFull: nothing of it has happened, or nobody knows.
        """
        async with self._transaction(writes=True) as connection:
            yield connection

    @asynccontextmanager
    async def _transaction(self, *, writes: bool) -> AsyncGenerator[AsyncConnection]:
        with as_storage_errors("database"):
            async with asyncio.timeout(STATEMENT_SECONDS), self._engine.connect() as connection:
                await connection.execution_options(writes=writes)
                async with connection.begin():
                    yield connection

    async def aclose(self) -> None:
        await self._engine.dispose()


def _url_of(url: str | None, directory: Path) -> URL:
    if url is None:
        return URL.create("sqlite+aiosqlite", database=str(directory / "chats.db"))
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise StorageUnavailable("DATABASE_URL is no URL.", part="database", cause="not a URL") from None
    drivers = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}
    driver = drivers.get(parsed.drivername.partition("+")[0])
    if driver is None:
        detail = "DATABASE_URL is neither SQLite nor PostgreSQL."
        raise StorageUnavailable(detail, part="database", cause=parsed.drivername)
    return parsed.set(drivername=driver)


def _engine(url: URL, *, is_sqlite: bool) -> AsyncEngine:
    if not is_sqlite:
        return create_async_engine(
            url,
            pool_size=10,
            max_overflow=20,
            pool_timeout=_BUSY_SECONDS,
            pool_pre_ping=True,
            connect_args={"connect_timeout": _CONNECT_SECONDS},
        )
    engine = create_async_engine(url, connect_args={"timeout": _BUSY_SECONDS}, pool_timeout=_BUSY_SECONDS)
    event.listen(engine.sync_engine, "connect", _prepare_sqlite)
    event.listen(engine.sync_engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _: object) -> None:
    connection.isolation_level = None  # Python's own idea of when a transaction begins is too late for ours
    cursor = connection.cursor()
    # FULL: whoever was told that a turn is kept finds it after a power cut, too.
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        try:
            cursor.execute(f"PRAGMA {pragma}")
        except sqlite3.OperationalError:
            if pragma.startswith("journal"):
                continue  # a read-only file stays what it is
            raise
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    """Two writers that read first and write then would end in a deadlock."""
    writes = connection.get_execution_options().get("writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
