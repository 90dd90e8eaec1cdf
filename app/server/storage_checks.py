"""The checks of `python -m app doctor` for the database, the keys in it, and the blob store."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta

from app.domain.api_key import CallerRecord
from app.domain.errors import ServiceError
from app.lib.base64_json import BufferContent
from app.server.error_causes import describe_cause
from app.server.findings import Finding, failure, ok, skipped, warning
from app.settings import Settings
from app.store import Storage

MAX_CLOCK_SKEW = timedelta(seconds=30)
"""Vertex and buckets refuse signed requests if the clocks differ by some minutes."""


async def check_storage(settings: Settings) -> AsyncGenerator[Finding]:
    from sqlalchemy import select

    from app.store.callers import CallerStore, Reservations
    from app.store.database import Database
    from app.store.migrate import migrate

    try:
        database = Database.from_settings(settings)
        async with aclosing(database):
            await migrate(database, allowed=settings.auto_migrate)
            now = await database.read(lambda connection: connection.execute(select(database.now)).scalar_one())
            records = await CallerStore(database, Reservations(database, settings.chat_lease_seconds)).all()
    except ServiceError as error:
        yield failure("database", f"{error.detail} ({describe_cause(error)}) See DATABASE_URL and DATA_DIR.")
        yield skipped("blobs", "not checked, because the database does not work.")
        return
    kind = "SQLite, for one replica" if database.is_sqlite else "PostgreSQL"
    yield ok("database", f"{kind}. Its tables are up to date.")
    skew = abs(now - datetime.now(UTC).timestamp())
    if skew > MAX_CLOCK_SKEW.total_seconds():
        yield warning("clock", f"{skew:.0f} s from the database's clock. Set one of the two clocks.")
    yield _check_keys(settings, records)
    async for finding in _check_blobs(settings):
        yield finding


def _check_keys(settings: Settings, records: Sequence[CallerRecord]) -> Finding:
    valid = sum(record.is_valid for record in records)
    if settings.keys_required and not settings.service_api_keys and not valid:
        return warning("keys", "callers need a key, and there is none. Make one: python -m app keys add NAME.")
    return ok("keys", f"{valid} of {len(records)} callers in the database have a valid key.")


async def _check_blobs(settings: Settings) -> AsyncGenerator[Finding]:
    from app.store.blobs import digest_of

    content = BufferContent(b"Written by python -m app doctor. You can delete this file.")
    try:
        async with aclosing(Storage(settings)) as storage:
            blobs = (await storage.chats()).blobs
            await blobs.require_writable()
            digest = await digest_of(content)
            await blobs.put(digest, content)
            await blobs.read(blobs.blob(digest, len(content)), 0, len(content))
            await blobs.delete([digest])
    except ServiceError as error:
        yield failure("blobs", f"{error.detail} ({describe_cause(error)}) See BLOB_URL and DATA_DIR.")
    else:
        kind = (settings.blob_url or "file").partition(":")[0]
        yield ok("blobs", f"{kind}: a file was written, read and deleted.")
