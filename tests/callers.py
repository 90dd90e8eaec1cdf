"""Callers with keys in the database, for tests."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from app.domain.api_key import NewSecret, digest_of, hint_of, make_secret
from app.domain.limits import UNLIMITED, Budget, Limits, Rate, Standing
from app.domain.spending import CallerUsage
from app.settings import Settings
from app.store import Storage
from app.store.callers import CallerStore
from tests.conftest import settings_for
from tests.storages import Overrides


async def add_key(storage: Overrides | Settings, name: str = "web", *, track_users: bool = False, **limits: Any) -> str:
    """Store a caller, and return its secret.

    Args:
        storage: settings of the storage.
        name: of the caller.
        track_users: as in `CallerStore.add`.
        **limits: fields of `Limits`; `rate` and `budget` as text.
    """
    for field, parse in (("rate", Rate.parse), ("budget", Budget.parse)):
        if field in limits:
            limits[field] = parse(limits[field])
    settings = storage if isinstance(storage, Settings) else settings_for("http://127.0.0.1:1", **storage)
    secret = make_secret()
    stores = Storage(settings)
    try:
        new = NewSecret(digest_of(secret), hint_of(secret))
        await (await stores.callers()).add(name, Limits(**limits), new, track_users=track_users)
    finally:
        await stores.aclose()
    return secret


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


async def usage_of(
    store: CallerStore, owner: str, limits: Limits = UNLIMITED, *, from_days_ago: int = 0, to_days_ago: int = 0
) -> CallerUsage:
    """Return the usage of some days up to today (UTC)."""
    today = datetime.now(UTC).date()
    return await store.usage(owner, limits, today - timedelta(from_days_ago), today - timedelta(to_days_ago))


async def standing_of(store: CallerStore, owner: str, limits: Limits) -> Standing:
    standing = (await usage_of(store, owner, limits)).standing
    assert standing is not None
    return standing


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 20) -> None:
    """Wait until the condition is true.

    Raises:
        TimeoutError: it is not, after that time.
    """
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.02)


def break_database(folder: Path) -> None:
    """Let every look-up of a key and every reservation fail from now on."""
    with closing(sqlite3.connect(folder / "chats.db", timeout=10)) as connection:
        connection.execute("ALTER TABLE api_keys RENAME TO gone")
        connection.execute("ALTER TABLE reservations RENAME TO gone_too")
