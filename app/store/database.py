"""The database: SQLite in a file, or PostgreSQL; what differs between them is said here."""

import asyncio
import os
import socket
import sqlite3
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, TypeVar

import anyio.to_thread
import psycopg
from sqlalchemy import ColumnElement, Double, create_engine, event, literal_column
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from app.domain.errors import StorageUnavailable
from app.settings import Settings
from app.store.errors import as_storage_errors
from app.store.permissions import close_to_others, make_private_file, make_private_folder

T = TypeVar("T")

TRANSACTION_SECONDS = 15
"""How long one may take; all of ours are short."""

_BUSY_SECONDS = 10
"""How long a transaction waits for a lock. `DATABASE_URL` can say otherwise: `?timeout=5` (SQLite),
`?options=-c%20lock_timeout%3D5s` (PostgreSQL)."""

_LEAST_BUSY_SECONDS = 0.1
"""How long a writer waits for a lock of SQLite's if it has waited for the other writers of this process already."""

_CONNECT_SECONDS = 5
_CONNECTIONS = 30


class Database:
    """Transactions, each in a thread of its own."""

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
        if self.is_sqlite and self.url.database and "uri" not in self.url.query:
            with as_storage_errors("database"):
                _make_private(Path(self.url.database))
        self._engine = _engine(self.url, is_sqlite=self.is_sqlite)
        self._busy_seconds = float(str(self.url.query.get("timeout", _BUSY_SECONDS))) if self.is_sqlite else 0.0
        self._limits = f"SET LOCAL statement_timeout = {1000 * TRANSACTION_SECONDS}"
        if "lock_timeout" not in str(self.url.query.get("options", "")):
            self._limits += f"; SET LOCAL lock_timeout = {1000 * _BUSY_SECONDS}"
        self._threads = anyio.CapacityLimiter(_CONNECTIONS)
        self._writer = asyncio.Lock()

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

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Do `work` in a transaction that sees one state of the database, and changes none.

        Raises:
            StorageUnavailable, StorageFull: as it turns out.
        """
        return await self._in_thread(work, writes=False)

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Do `work` in a transaction that is durable once this returns.

        Raises:
            StorageUnavailable, StorageFull: nothing of it has happened, or nobody knows.
        """
        return await self._in_thread(work, writes=True)

    async def _in_thread(self, work: Callable[[Connection], T], *, writes: bool) -> T:
        """A transaction is a visit to a thread. SQLAlchemy's own asynchrony is one for each cursor and row instead."""
        used: list[Any] = []
        # SQLite has one writer anyway; those who wait for their turn need no thread to do so.
        turn = self._writer if writes and self.is_sqlite else nullcontext()
        started = time.monotonic()
        with as_storage_errors("database"):
            try:
                async with asyncio.timeout(TRANSACTION_SECONDS), turn:
                    return await anyio.to_thread.run_sync(
                        self._transaction, work, writes, used, started, limiter=self._threads, abandon_on_cancel=True
                    )
            except TimeoutError:
                _cut(used)
                raise

    def _transaction(self, work: Callable[[Connection], T], writes: bool, used: list[Any], started: float) -> T:
        with as_storage_errors("database"):
            if self.is_sqlite:
                with self._engine.connect() as connection:
                    # Waiting for other writers counts: behind a lock they would wait one after another.
                    left = self._busy_seconds - (time.monotonic() - started)
                    connection.execution_options(writes=writes, busy_seconds=max(left, _LEAST_BUSY_SECONDS))
                    with connection.begin():
                        return work(connection)
            while True:
                stale = bool(used)
                with self._engine.connect() as connection:
                    used[:] = [connection.connection.driver_connection]
                    connection.execution_options(isolation_level="READ COMMITTED" if writes else "REPEATABLE READ")
                    with connection.begin():
                        try:
                            connection.exec_driver_sql(self._limits)
                        except DBAPIError as error:
                            if stale or not error.connection_invalidated:
                                raise
                            continue  # it was idle for too long, or the server has been started anew
                        return work(connection)

    async def aclose(self) -> None:
        await anyio.to_thread.run_sync(self._engine.dispose)


def _make_private(file: Path) -> None:
    """Make an SQLite database that only this user may read. SQLite gives its other files the same permissions.

    A database that cannot be made now is made when it is first used, or that fails and says why.

    Raises:
        OSError: there can be no folder for it.
    """
    make_private_folder(file.parent)
    with suppress(OSError):
        make_private_file(file)
    close_to_others(file.with_name(file.name + suffix) for suffix in ("-wal", "-shm", "-journal"))


def _cut(used: list[Any]) -> None:
    """End the connection of a transaction that nobody waits for any more, and with it the thread that still does."""
    for connection in used:
        with suppress(OSError, psycopg.Error):
            descriptor = os.dup(connection.fileno())
            with socket.socket(fileno=descriptor) as line:
                line.shutdown(socket.SHUT_RDWR)


def file_of(url: str) -> Path | None:
    """The file of the SQLite database that `url` names; None if it names a PostgreSQL database.

    Raises:
        StorageUnavailable: it names neither.
    """
    parsed = _url_of(url, Path())
    if parsed.get_backend_name() == "postgresql":
        try:
            psycopg.conninfo.make_conninfo(**dict.fromkeys(parsed.query, "1"))
        except psycopg.ProgrammingError as error:
            detail = "DATABASE_URL has an option that PostgreSQL does not know."
            raise StorageUnavailable(detail, part="database", cause=str(error).strip()) from error
    return Path(parsed.database) if parsed.get_backend_name() == "sqlite" and parsed.database else None


def _url_of(url: str | None, directory: Path) -> URL:
    if url is None:
        return URL.create("sqlite", database=str(directory / "chats.db"))
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise StorageUnavailable("DATABASE_URL is no URL.", part="database", cause="not a URL") from None
    drivers = {"sqlite": "sqlite+pysqlite", "postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}
    driver = drivers.get(parsed.drivername.partition("+")[0])
    if driver is None:
        detail = "DATABASE_URL is neither SQLite nor PostgreSQL."
        raise StorageUnavailable(detail, part="database", cause=parsed.drivername)
    if driver.startswith("sqlite") and parsed.database in (None, "", ":memory:"):
        raise StorageUnavailable("DATABASE_URL names no file.", part="database", cause="in memory")
    return parsed.set(drivername=driver)


def _engine(url: URL, *, is_sqlite: bool) -> Engine:
    if is_sqlite:
        patience = {} if "timeout" in url.query else {"timeout": _BUSY_SECONDS}
        engine = create_engine(url, pool_size=_CONNECTIONS, connect_args=patience)
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    wanted = {
        "client_encoding": "utf8",  # or what psycopg reads from a database in SQL_ASCII is bytes
        "connect_timeout": _CONNECT_SECONDS,
        # A host that is gone does not say so.
        "tcp_user_timeout": 1000 * TRANSACTION_SECONDS,
        "keepalives_idle": TRANSACTION_SECONDS,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "prepare_threshold": None,  # a pooler in front may hand the next transaction to another server process
    }
    own = {name: value for name, value in wanted.items() if name not in url.query}
    return create_engine(url, pool_size=_CONNECTIONS, max_overflow=0, pool_timeout=_BUSY_SECONDS, connect_args=own)


def _prepare_sqlite(connection: Any, _: object) -> None:
    connection.isolation_level = None  # Python's own idea of when a transaction begins is too late for ours
    cursor = connection.cursor()
    # FULL: whoever was told that a turn is kept finds it after a power cut, too.
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        try:
            cursor.execute(f"PRAGMA {pragma}")
        except sqlite3.OperationalError as error:
            locked = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY  # waiting once is enough
            if pragma.startswith("journal") and not locked:
                continue  # a read-only file stays what it is
            raise
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    """Two writers that read first and write then would end in a deadlock."""
    options = connection.get_execution_options()
    if "busy_seconds" in options:
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {round(1000 * options['busy_seconds'])}")
    writes = options.get("writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
