"""Add to the tables of usage."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from app.store.database import Database
from app.store.tables import end_user_usage, usage

_AMOUNTS = ("images", "tokens", "micro_usd")


@dataclass(frozen=True, slots=True)
class Entry:
    """What is added to the usage of an owner on a day."""

    owner: str
    date: str
    model: str
    end_user: str | None
    images: int = 0
    tokens: int = 0
    micro_usd: int = 0


class Booking:
    def __init__(self, database: Database) -> None:
        dialect: Any = sqlite if database.is_sqlite else postgresql
        self._by_model = _upsert(dialect, usage)
        self._by_end_user = _upsert(dialect, end_user_usage)

    def book(self, connection: Connection, entries: Iterable[Entry]) -> None:
        by_model: dict[tuple[str, ...], list[int]] = {}
        by_end_user: dict[tuple[str, ...], list[int]] = {}
        for one in entries:
            amounts = [one.images, one.tokens, one.micro_usd]
            if any(amounts):
                _add(by_model, (one.owner, one.date, one.model), amounts)
                if one.end_user is not None:
                    _add(by_end_user, (one.owner, one.date, one.end_user), amounts)
        _execute(connection, self._by_model, "model", by_model)
        _execute(connection, self._by_end_user, "end_user", by_end_user)


def _add(sums: dict[tuple[str, ...], list[int]], key: tuple[str, ...], amounts: list[int]) -> None:
    sums[key] = [before + more for before, more in zip(sums.get(key, [0, 0, 0]), amounts, strict=True)]


def _execute(connection: Connection, upsert: Any, last: str, sums: dict[tuple[str, ...], list[int]]) -> None:
    # Sorted: concurrent transactions lock rows in the same order, so that none waits for another in a circle.
    for key in sorted(sums):
        connection.execute(upsert, dict(zip(("owner", "date", last, *_AMOUNTS), (*key, *sums[key]), strict=True)))


def _upsert(dialect: Any, table: Table) -> Any:
    insert = dialect.insert(table)
    added = {name: table.c[name] + insert.excluded[name] for name in _AMOUNTS}
    return insert.on_conflict_do_update(index_elements=[*table.primary_key.columns], set_=added)
