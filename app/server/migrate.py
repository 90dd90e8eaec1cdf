"""`python -m app migrate`: update the tables of the database."""

import asyncio
import sys

from app.domain.errors import StorageError
from app.server.start_checks import check_environment
from app.store.database import Database
from app.store.migrate import HEAD, migrate


def main() -> None:
    """Migrate the database that `DATABASE_URL` or `DATA_DIR` names. If this fails, print why and exit with code 1."""
    try:
        asyncio.run(_migrate())
    except StorageError as error:
        sys.exit(f"{error.detail} ({error.cause})")


async def _migrate() -> None:
    settings = check_environment().require_valid()
    database = Database.from_settings(settings)
    try:
        await migrate(database)
    finally:
        await database.aclose()
    print(f"The database is at {HEAD}.")
