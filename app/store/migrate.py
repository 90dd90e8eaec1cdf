"""Bringing the database up to date: `python -m app migrate`, or by itself at first use."""

from pathlib import Path

from sqlalchemy import text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from app.domain.errors import StorageError, StorageUnavailable
from app.store.database import Database
from app.store.tables import current_version

HEAD = "0002"
"""The newest migration; a test holds it against the folder."""

_LOCK = 7_236_481
"""Any number that nobody else in the same PostgreSQL takes for a lock."""


async def migrate(database: Database, *, allowed: bool = True) -> None:
    """Bring the database up to date, if it is not.

    Args:
        database: whose tables to bring up to date.
        allowed: else what is missing is only found out.

    Raises:
        StorageUnavailable: it is not up to date, and may not be brought there; or it does not answer.
    """
    found = await _version(database)
    if found == HEAD:
        return
    if found is not None and found > HEAD:
        detail = "The database of chats is newer than this service."
        raise StorageUnavailable(detail, part="database", cause=f"version {found}")
    if not allowed:
        detail = "The database of chats is not up to date; migrations have to be run."
        raise StorageUnavailable(detail, part="database", cause=f"version {found}")
    await database.write(_upgrade)


async def _version(database: Database) -> str | None:
    try:
        found: str | None = await database.read(lambda connection: connection.execute(current_version).scalar())
    except StorageError as error:
        if isinstance(error.__cause__, DBAPIError) and _says_no_table(error.__cause__):
            return None
        raise
    return found


def _says_no_table(error: DBAPIError) -> bool:
    return getattr(error.orig, "sqlstate", None) == "42P01" or "no such table" in str(error.orig)


def _upgrade(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))  # replicas start together
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
