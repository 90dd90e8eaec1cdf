"""Callers with their limits, and the secrets that authenticate them."""

from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any

from sqlalchemy import and_, bindparam, insert, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from app.domain.api_key import UNCHANGED, CallerRecord, KnownCaller, NewSecret, SecretRecord, Unchanged
from app.domain.errors import KeyExists, KeyNotFound
from app.domain.limits import Limits
from app.store.callers.rows import LIMIT_COLUMNS, columns_of, known_caller, limits_of
from app.store.database import Database
from app.store.tables import api_keys, callers


class KeyRows:
    """See `CallerStore`, which has the same verbs."""

    def __init__(self, database: Database) -> None:
        self._database = database
        now = database.now
        self._valid = and_(
            api_keys.c.revoked_at.is_(None), or_(api_keys.c.expires_at.is_(None), api_keys.c.expires_at > now)
        )
        dialect: Any = sqlite if database.is_sqlite else postgresql
        self._insert = dialect.insert(callers).values(created_at=now).on_conflict_do_nothing().returning(callers.c.name)
        self._lock = select(callers.c.rate).where(callers.c.name == bindparam("this")).with_for_update()
        self._find = (
            select(api_keys.c.digest, *LIMIT_COLUMNS)
            .join(callers)
            .where(api_keys.c.digest.in_(bindparam("digests", expanding=True)), self._valid)
        )
        self._by_name = select(*LIMIT_COLUMNS).where(callers.c.name.in_(bindparam("names", expanding=True)))

    async def add(self, name: str, limits: Limits, secret: NewSecret, *, track_users: bool) -> CallerRecord:
        values = columns_of({**_fields(limits), "track_users": track_users})

        def transaction(connection: Connection) -> CallerRecord:
            if connection.execute(self._insert, {"name": name, **values}).first() is None:
                self._require(connection, name)
                if self._record(connection, name).is_valid:
                    raise KeyExists(f"There is a key with the name {name}.")
                # What is due to the earlier limits is forgotten. The usage of the name stays.
                connection.execute(update(callers).where(callers.c.name == name).values(tat=None, **values))
            self._add_secret(connection, name, secret)
            return self._record(connection, name)

        return await self._database.write(transaction)

    async def get(self, name: str) -> CallerRecord:
        return await self._database.read(lambda connection: self._record(connection, name))

    async def all(self) -> list[CallerRecord]:
        return await self._database.read(self._records)

    async def change(
        self, name: str, changes: Mapping[str, Any], expires_in: float | Unchanged | None = UNCHANGED
    ) -> CallerRecord:
        values = columns_of(dict(changes))

        def transaction(connection: Connection) -> CallerRecord:
            row = self._require(connection, name)
            if values:
                if values.get("rate", row.rate) != row.rate:
                    values["tat"] = None  # it was counted by another rate
                connection.execute(update(callers).where(callers.c.name == name).values(**values))
            if not isinstance(expires_in, Unchanged):
                expires_at = None if expires_in is None else self._database.now + expires_in
                connection.execute(update(api_keys).where(*self._valid_of(name)).values(expires_at=expires_at))
            return self._record(connection, name)

        return await self._database.write(transaction)

    async def rotate(self, name: str, secret: NewSecret, overlap_seconds: float) -> CallerRecord:
        end = self._database.now + overlap_seconds
        lasts_longer = or_(api_keys.c.expires_at.is_(None), api_keys.c.expires_at > end)
        end_older = update(api_keys).where(*self._valid_of(name), lasts_longer).values(expires_at=end)

        def transaction(connection: Connection) -> CallerRecord:
            self._require(connection, name)
            connection.execute(end_older)
            self._add_secret(connection, name, secret)
            return self._record(connection, name)

        return await self._database.write(transaction)

    async def revoke(self, name: str) -> CallerRecord:
        revoked = update(api_keys).where(*self._valid_of(name)).values(revoked_at=self._database.now)

        def transaction(connection: Connection) -> CallerRecord:
            self._require(connection, name)
            connection.execute(revoked)
            return self._record(connection, name)

        return await self._database.write(transaction)

    async def find(self, digests: Collection[str]) -> dict[str, KnownCaller]:
        def transaction(connection: Connection) -> dict[str, KnownCaller]:
            rows = connection.execute(self._find, {"digests": [*digests]})
            return {row.digest: known_caller(row) for row in rows}

        return await self._database.read(transaction)

    async def limits_of(self, names: Collection[str]) -> dict[str, KnownCaller]:
        def transaction(connection: Connection) -> dict[str, KnownCaller]:
            return {row.name: known_caller(row) for row in connection.execute(self._by_name, {"names": [*names]})}

        return await self._database.read(transaction)

    def _valid_of(self, name: str) -> tuple[Any, ...]:
        return api_keys.c.caller == name, self._valid

    def _require(self, connection: Connection, name: str) -> Any:
        """Lock the caller's row, so that its secrets change in one transaction at a time. Return its columns.

        Raises:
            KeyNotFound: there is none.
        """
        row = connection.execute(self._lock, {"this": name}).one_or_none()
        if row is None:
            raise KeyNotFound(f"There is no key with the name {name}.")
        return row

    def _add_secret(self, connection: Connection, name: str, secret: NewSecret) -> None:
        now = self._database.now
        connection.execute(
            insert(api_keys).values(
                digest=secret.digest,
                caller=name,
                hint=secret.hint,
                created_at=now,
                expires_at=None if secret.expires_in is None else now + secret.expires_in,
            )
        )

    def _record(self, connection: Connection, name: str) -> CallerRecord:
        records = self._records(connection, name)
        if not records:
            raise KeyNotFound(f"There is no key with the name {name}.")
        return records[0]

    def _records(self, connection: Connection, name: str | None = None) -> list[CallerRecord]:
        """Return all callers by name, or the one with the name."""
        found = select(*LIMIT_COLUMNS, callers.c.created_at).order_by(callers.c.name)
        keys = select(api_keys, self._valid.label("is_valid")).order_by(api_keys.c.created_at.desc(), api_keys.c.digest)
        if name is not None:
            found, keys = found.where(callers.c.name == name), keys.where(api_keys.c.caller == name)
        secrets: dict[str, list[SecretRecord]] = {}
        for row in connection.execute(keys):
            secret = SecretRecord(row.hint, row.created_at, row.expires_at, row.revoked_at, bool(row.is_valid))
            secrets.setdefault(row.caller, []).append(secret)
        return [
            CallerRecord(row.name, row.created_at, limits_of(row), row.track_users, tuple(secrets.get(row.name, ())))
            for row in connection.execute(found)
        ]


def _fields(limits: Limits) -> dict[str, Any]:
    return {field.name: getattr(limits, field.name) for field in fields(limits)}
