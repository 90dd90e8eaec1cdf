"""Migrate the database to the newest version: with `python -m app migrate`, or at first use."""

from pathlib import Path

from sqlalchemy import text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from app.domain.errors import StorageError, StorageUnavailable
from app.store.database import Database
from app.store.tables import current_version

HEAD = "0004"
"""The newest migration. A test compares it with the files in `migrations`."""

_LOCK = 7_236_481
"""Key of the advisory lock. No other program on the same PostgreSQL database may use it."""


async def migrate(database: Database, *, allowed: bool = True) -> None:
    """Run the missing migrations.

    Args:
        database: the database to migrate.
        allowed: if false, only check that no migration is missing.

    Raises:
        StorageUnavailable: migrations are missing and not allowed, the database is newer than this service, or it does
            not answer.
    """
    found = await _version(database)
    if found == HEAD:
        return
    if found is not None and found > HEAD:
        detail = "The database is newer than this service."
        raise StorageUnavailable(detail, part="database", cause=f"version {found}")
    if not allowed:
        detail = "The database is not up to date. Run the migrations: python -m app migrate."
        raise StorageUnavailable(detail, part="database", cause=f"version {found}")
    await database.write(_upgrade)


async def _version(database: Database) -> str | None:
    try:
        found: str | None = await database.read(lambda connection: connection.execute(current_version).scalar())
    except StorageError as error:
        if isinstance(error.__cause__, DBAPIError) and _is_missing_table(error.__cause__):
            return None
        raise
    return found


def _is_missing_table(error: DBAPIError) -> bool:
    return getattr(error.orig, "sqlstate", None) == "42P01" or "no such table" in str(error.orig)


def _upgrade(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))  # replicas may start at the same time
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
