"""The database: SQLite in a file, or PostgreSQL. Runs transactions in threads, and handles what differs."""

import asyncio
import os
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
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
"""Time limit of one transaction. All transactions of the service are short."""

_BUSY_SECONDS = 10
"""How long a transaction waits for a lock. `DATABASE_URL` can set another time: `?timeout=5` (SQLite),
`?options=-c%20lock_timeout%3D5s` (PostgreSQL)."""

_MIN_BUSY_SECONDS = 0.1
"""How long a writer waits for SQLite's lock if it has used up its time waiting for other writers of this process."""

_NOT_DURABLE = "; SET LOCAL synchronous_commit = off"

_SQLITE_HEADER = b"SQLite format 3\0"

_CLOSE_SECONDS = 5
_CONNECT_SECONDS = 5
_CONNECTIONS = 30
"""Most connections, and most threads for transactions."""


class Database:
    """Runs each transaction as a whole in a worker thread."""

    def __init__(self, url: str | None, directory: Path) -> None:
        """
        Args:
            url: `sqlite:///…` or `postgresql://…`; `None` means the file `chats.db` in `directory`.
            directory: made if it does not exist.

        Raises:
            StorageUnavailable: the URL is invalid, or the directory cannot be made.
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
        self._running = 0
        """Transactions whose threads have not ended, also those whose tasks were cancelled."""
        self._changed = threading.Condition()
        self._writer = asyncio.Lock()

    @classmethod
    def from_settings(cls, settings: Settings) -> "Database":
        """Return the database that the settings name. Raises as the constructor does."""
        url = settings.database_url.get_secret_value() if settings.database_url else None
        return cls(url, settings.data_dir)

    @property
    def now(self) -> ColumnElement[float]:
        """Seconds since 1970 by the database's clock."""
        text = "(julianday('now') - 2440587.5) * 86400.0" if self.is_sqlite else "extract(epoch from clock_timestamp())"
        return literal_column(text, Double)

    async def read(self, transaction: Callable[[Connection], T]) -> T:
        """Run `transaction` in a read-only transaction that sees one snapshot of the database.

        Raises:
            StorageUnavailable, StorageFull: the transaction failed.
        """
        return await self._in_thread(transaction, writes=False)

    async def write(self, transaction: Callable[[Connection], T], *, durable: bool = True) -> T:
        """Run `transaction` in a writing transaction.

        Args:
            transaction: what to run.
            durable: whether it survives a power cut when this returns. If not, it survives the end of this process, and
                a power cut after the next durable transaction. It takes a few milliseconds less.

        Raises:
            StorageUnavailable, StorageFull: the transaction failed. If the connection broke during the commit, it may
                still have been committed.
        """
        return await self._in_thread(transaction, writes=True, durable=durable)

    async def _in_thread(self, transaction: Callable[[Connection], T], *, writes: bool, durable: bool = True) -> T:
        """Use one thread for the whole transaction. SQLAlchemy's asyncio extension switches threads for each cursor
        and row instead."""
        used: list[Any] = []
        # SQLite allows one writer at a time. Writers wait on the event loop, so that none occupies a thread.
        write_lock = self._writer if writes and self.is_sqlite else nullcontext()
        started = time.monotonic()
        with as_storage_errors("database"):
            try:
                async with asyncio.timeout(TRANSACTION_SECONDS), write_lock:
                    return await anyio.to_thread.run_sync(
                        self._run,
                        transaction,
                        writes,
                        durable,
                        used,
                        started,
                        limiter=self._threads,
                        abandon_on_cancel=True,
                    )
            except TimeoutError:
                _disconnect(used)
                raise

    def _run(
        self, transaction: Callable[[Connection], T], writes: bool, durable: bool, used: list[Any], started: float
    ) -> T:
        with self._counted(), as_storage_errors("database"):
            if self.is_sqlite:
                with self._engine.connect() as connection:
                    # The wait for other writers counts too. Else all writers behind one lock would add up their waits.
                    left = self._busy_seconds - (time.monotonic() - started)
                    busy_seconds = max(left, _MIN_BUSY_SECONDS)
                    connection.execution_options(writes=writes, durable=durable, busy_seconds=busy_seconds)
                    with connection.begin():
                        return transaction(connection)
            while True:
                stale = bool(used)
                with self._engine.connect() as connection:
                    used[:] = [connection.connection.driver_connection]
                    connection.execution_options(isolation_level="READ COMMITTED" if writes else "REPEATABLE READ")
                    with connection.begin():
                        try:
                            connection.exec_driver_sql(self._limits if durable else self._limits + _NOT_DURABLE)
                        except DBAPIError as error:
                            if stale or not error.connection_invalidated:
                                raise
                            continue  # the connection was closed while idle, or the server was restarted
                        return transaction(connection)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        with self._changed:
            self._running += 1
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    async def aclose(self) -> None:
        """Close all connections, once the transactions that still run have ended, or after a few seconds."""
        await anyio.to_thread.run_sync(self._close)

    def _close(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._running, _CLOSE_SECONDS)
        self._engine.dispose()


def _make_private(file: Path) -> None:
    """Make an SQLite file that only this user may read, and close an existing one to other users.

    A file that is no database keeps its permissions: the URL may name it by mistake. If the file cannot be made now,
    the first transaction tries again and reports the error.

    Raises:
        OSError: the file's folder cannot be made.
    """
    make_private_folder(file.parent)
    with suppress(OSError):
        make_private_file(file)
        with file.open("rb") as opened:
            is_database = opened.read(len(_SQLITE_HEADER)) in (b"", _SQLITE_HEADER)
        if is_database:
            close_to_others(file.with_name(file.name + suffix) for suffix in ("", "-wal", "-shm", "-journal"))


def _disconnect(used: list[Any]) -> None:
    """Shut down the connection of a transaction that timed out. This also ends its thread, which waits for data."""
    for connection in used:
        with suppress(OSError, psycopg.Error):
            descriptor = os.dup(connection.fileno())
            with socket.socket(fileno=descriptor) as duplicate:
                duplicate.shutdown(socket.SHUT_RDWR)


def file_of(url: str) -> Path | None:
    """Return the file of the SQLite database that `url` names, or `None` if it names a PostgreSQL database.

    Raises:
        StorageUnavailable: the URL names neither.
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
        raise StorageUnavailable("DATABASE_URL is not a URL.", part="database", cause="not a URL") from None
    drivers = {"sqlite": "sqlite+pysqlite", "postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}
    driver = drivers.get(parsed.drivername.partition("+")[0])
    if driver is None:
        detail = "DATABASE_URL must start with sqlite:/// or postgresql://."
        raise StorageUnavailable(detail, part="database", cause=parsed.drivername)
    if driver.startswith("sqlite") and parsed.database in (None, "", ":memory:"):
        detail = "DATABASE_URL must name a file. SQLite in memory is not supported."
        raise StorageUnavailable(detail, part="database", cause="in memory")
    return parsed.set(drivername=driver)


def _engine(url: URL, *, is_sqlite: bool) -> Engine:
    if is_sqlite:
        timeout = {} if "timeout" in url.query else {"timeout": _BUSY_SECONDS}
        engine = create_engine(url, pool_size=_CONNECTIONS, connect_args=timeout)
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    arguments = {
        "client_encoding": "utf8",  # else psycopg returns bytes from a database with the encoding SQL_ASCII
        "connect_timeout": _CONNECT_SECONDS,
        # A host that disappears closes no connection: only timeouts detect it.
        "tcp_user_timeout": 1000 * TRANSACTION_SECONDS,
        "keepalives_idle": TRANSACTION_SECONDS,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "prepare_threshold": None,  # a connection pooler may run the next transaction in another server process
    }
    arguments = {name: value for name, value in arguments.items() if name not in url.query}
    return create_engine(
        url, pool_size=_CONNECTIONS, max_overflow=0, pool_timeout=_BUSY_SECONDS, connect_args=arguments
    )


def _prepare_sqlite(connection: Any, _: object) -> None:
    connection.isolation_level = None  # otherwise sqlite3 begins transactions itself, after the first reads
    cursor = connection.cursor()
    # FULL: a turn that was reported as saved survives a power cut.
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        try:
            cursor.execute(f"PRAGMA {pragma}")
        except sqlite3.OperationalError as error:
            locked = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY  # this statement has waited for the lock
            if pragma.startswith("journal") and not locked:
                continue  # the journal mode of a read-only file cannot be changed
            raise
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    """Begin a writing transaction with the write lock: two that read first and write then would deadlock."""
    options = connection.get_execution_options()
    if "busy_seconds" in options:
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {round(1000 * options['busy_seconds'])}")
    writes = options.get("writes")
    if writes:
        connection.exec_driver_sql(f"PRAGMA synchronous = {'FULL' if options.get('durable') else 'NORMAL'}")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
