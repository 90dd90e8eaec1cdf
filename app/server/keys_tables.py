"""Keys and usage as text for a terminal."""

from collections.abc import Iterable, Sequence
from datetime import date, datetime
from typing import Any

from app.api.keys.response import KeyRead
from app.domain.limits import MICRO_USD, format_usd

_NOTHING = "-"


def list_keys(keys: Sequence[KeyRead]) -> str:
    """Return a table of keys."""
    if not keys:
        return "There are no keys. Make one: python -m app keys add NAME"
    rows = [
        (
            key.name,
            key.state,
            key.rate,
            key.concurrent,
            key.budget,
            _usd(key.spent_usd),
            key.max_size,
            key.models and ",".join(key.models),
            key.secrets[0].hint if key.secrets else None,
            _time(key.expires_at),
        )
        for key in keys
    ]
    header = ("NAME", "STATE", "RATE", "CONCURRENT", "BUDGET", "SPENT", "MAX SIZE", "MODELS", "HINT", "EXPIRES")
    return _table(header, rows)


def describe_key(key: KeyRead) -> str:
    """Return a key with all its secrets, one line for each value."""
    values: dict[str, Any] = {
        "name": key.name,
        "state": key.state,
        "rate": key.rate,
        "concurrent": key.concurrent,
        "budget": key.budget,
        "spent": _usd(key.spent_usd),
        "reserved": _usd(key.reserved_usd),
        "max size": key.max_size,
        "models": key.models and ",".join(key.models),
        "track users": "yes" if key.track_users else "no",
    }
    for number, secret in enumerate(key.secrets, 1):
        expiry = "does not expire" if secret.expires_at is None else f"expires {_time(secret.expires_at)}"
        values[f"secret {number}"] = f"{secret.hint}… {secret.state}, made {_time(secret.created_at)}, {expiry}"
    width = max(map(len, values))
    return "\n".join(f"{name:<{width}}  {_NOTHING if value is None else value}" for name, value in values.items())


def list_usage(documents: Sequence[dict[str, Any]], first: date, last: date) -> str:
    """Return tables of what callers have used, as `GET /usage` has it."""
    days = [
        (document["caller"], day["date"], day["model"], day["images"], day["tokens"], _usd(day["usd"]))
        for document in documents
        for day in document["days"]
    ]
    totals = [
        (
            document["caller"],
            document["images"],
            _usd(document["spentUsd"]),
            _usd(document["reservedUsd"]),
            budget and f"{_usd(budget['usd'])}/{budget['per']}",
            budget and _usd(budget["remainingUsd"]),
        )
        for document in documents
        for budget in [document["limits"]["budget"]]
    ]
    users = [
        (document["caller"], user["endUser"], user["images"], user["tokens"], _usd(user["usd"]))
        for document in documents
        for user in document.get("users", ())
    ]
    parts = [f"Usage from {first} to {last} (UTC), in US dollars"]
    if days:
        parts.append(_table(("CALLER", "DATE", "MODEL", "IMAGES", "TOKENS", "USD"), days))
    if users:
        parts.append(_table(("CALLER", "END USER", "IMAGES", "TOKENS", "USD"), users))
    parts.append(_table(("CALLER", "IMAGES", "SPENT", "RESERVED", "BUDGET", "REMAINING"), totals))
    return "\n\n".join(parts)


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [header, *([_NOTHING if value is None else str(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(f"{value:<{width}}" for value, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _usd(dollars: float | None) -> str | None:
    return None if dollars is None else format_usd(round(dollars * MICRO_USD))


def _time(time: datetime | None) -> str | None:
    return None if time is None else f"{time:%Y-%m-%d %H:%M:%S}Z"
