"""`python -m app keys`: give out, change and end keys of the database, and show what they have used.

The commands use the database that the service uses, before there is a service or while one runs. They need no
credentials for Gemini.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from datetime import date
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from app.api.keys.request import KeyChange, KeyCreate, KeyRotation, parse_day, usage_period
from app.api.keys.response import KeysRead, key_read, new_key_read, usage_document
from app.domain.errors import CallerError, ServiceError
from app.lib.validation_messages import plain_message
from app.server.environment_checks import find_environment_errors
from app.server.error_causes import describe_cause
from app.server.keys_tables import describe_key, list_keys, list_usage
from app.server.settings_reader import find_mistyped_variables, read_settings
from app.service.callers.administration import KeyAdministration, ManagedKey
from app.settings import Settings

if TYPE_CHECKING:
    from app.store.callers import CallerStore
    from app.store.database import Database

_STORAGE_VARIABLES = ("DATABASE_URL", "DATA_DIR")

_LIMITS = ("rate", "concurrent", "budget", "max_size", "models", "expires", "track_users")
"""Options of `add` and `set`."""

_NONE = "none"
"""The value of an option that removes a limit."""

_Model = TypeVar("_Model", bound=BaseModel)


class InvalidOption(Exception):
    """An option or an argument has a value that is not allowed. The message is a sentence."""


def main(arguments: argparse.Namespace) -> None:
    """Run a command. If it fails, print a sentence on stderr and exit with code 1; with 2 if an option is invalid."""
    try:
        asyncio.run(_run(arguments))
    except InvalidOption as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except CallerError as error:
        sys.exit(error.detail)
    except ServiceError as error:
        sys.exit(f"{error.detail} ({describe_cause(error)})")


async def _run(arguments: argparse.Namespace) -> None:
    settings = _read_settings()
    async with aclosing(_Store(settings)) as store:
        await _VERBS[arguments.verb](arguments, KeyAdministration(store.opened), settings)


class _Store:
    """The store of callers without the other stores. The first use opens it, so that invalid options make no file."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._database: Database | None = None

    async def opened(self) -> "CallerStore":
        from app.store.callers import CallerStore, Reservations
        from app.store.database import Database
        from app.store.migrate import migrate

        if self._database is None:
            self._database = Database.from_settings(self._settings)
            await migrate(self._database, allowed=self._settings.auto_migrate)
        return CallerStore(self._database, Reservations(self._database, self._settings.chat_lease_seconds))

    async def aclose(self) -> None:
        if self._database is not None:
            await self._database.aclose()


def _read_settings() -> Settings:
    """Return the settings of the service. What only the service needs may be wrong or missing."""
    settings, errors = read_settings()
    invalid = {error.variable for error in errors}
    errors += [
        error
        for error in find_environment_errors(settings)
        if error.variable in _STORAGE_VARIABLES and error.variable not in invalid
    ]
    if errors:
        sys.exit("\n".join(map(str, errors)))
    for warning in find_mistyped_variables():
        print(f"Warning: {warning}", file=sys.stderr)
    return settings


async def _add(arguments: argparse.Namespace, keys: KeyAdministration, _: Settings) -> None:
    new = _parsed(KeyCreate, {"name": arguments.name, **_named_limits(arguments)})
    key, secret = await keys.add(new.name, new.limits, new.expires, track_users=new.track_users)
    _print_secret(key, secret, as_json=arguments.json)


async def _list(arguments: argparse.Namespace, keys: KeyAdministration, _: Settings) -> None:
    found = KeysRead(keys=[key_read(key) for key in await keys.all()])
    print(found.model_dump_json(by_alias=True) if arguments.json else list_keys(found.keys))


async def _show(arguments: argparse.Namespace, keys: KeyAdministration, _: Settings) -> None:
    _print_key(await keys.get(arguments.name), as_json=arguments.json)


async def _set(arguments: argparse.Namespace, keys: KeyAdministration, _: Settings) -> None:
    change = _parsed(KeyChange, _named_limits(arguments))
    if not change.model_fields_set:
        raise InvalidOption("Name what to change, for example --rate 60/min; --rate none removes the limit.")
    _print_key(await keys.change(arguments.name, change.changes, change.expires_in), as_json=arguments.json)


async def _rotate(arguments: argparse.Namespace, keys: KeyAdministration, _: Settings) -> None:
    rotation = _parsed(KeyRotation, {} if arguments.overlap is None else {"overlap": arguments.overlap})
    key, secret = await keys.rotate(arguments.name, rotation.overlap)
    _print_secret(key, secret, as_json=arguments.json)


async def _revoke(arguments: argparse.Namespace, keys: KeyAdministration, _: Settings) -> None:
    _print_key(await keys.revoke(arguments.name), as_json=arguments.json)


async def _usage(arguments: argparse.Namespace, keys: KeyAdministration, settings: Settings) -> None:
    try:
        first, last = usage_period(_day("--from", arguments.first), _day("--to", arguments.last))
    except ValueError as error:
        raise InvalidOption(f"--from {error}.") from error
    static = [key.name for key in settings.service_api_keys]
    if arguments.name is not None:
        found = {arguments.name: await keys.usage(arguments.name, first, last, static)}
    else:
        found = await keys.usage_of_all(first, last, static)
    documents = [usage_document(name, usage) for name, usage in found.items()]
    if not arguments.json:
        print(list_usage(documents, first, last))
    else:
        print(json.dumps({"callers": documents} if arguments.name is None else documents[0]))


def _day(option: str, text: str | None) -> date | None:
    try:
        return None if text is None else parse_day(text)
    except ValueError as error:
        raise InvalidOption(f"{option} {error}.") from error


def _named_limits(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the limits that the options name, as a request body has them."""
    named = {name: value for name in _LIMITS if (value := getattr(arguments, name)) is not None}
    named = {name: None if value == _NONE else value for name, value in named.items()}
    if named.get("models") is not None:
        named["models"] = [model.strip() for model in named["models"].split(",") if model.strip()]
        if not named["models"]:
            raise InvalidOption("--models names no model; the value none allows all.")
    return named


def _parsed(model: type[_Model], values: dict[str, Any]) -> _Model:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise InvalidOption("; ".join(map(_sentence, error.errors()))) from error


def _sentence(error: Any) -> str:
    field, *place = error["loc"]
    option = "NAME" if field == "name" else f"--{str(field).replace('_', '-')}"
    if place:
        return f"{option}: {str(error['input'])[:80]!a} is not a model's id or alias, such as gemini-3-pro-image."
    return f"{option} {plain_message(error)}."


def _print_key(key: ManagedKey, *, as_json: bool) -> None:
    read = key_read(key)
    print(read.model_dump_json(by_alias=True) if as_json else describe_key(read))


def _print_secret(key: ManagedKey, secret: str, *, as_json: bool) -> None:
    if as_json:
        print(new_key_read(key, secret).model_dump_json(by_alias=True))
    else:
        print(f"{describe_key(key_read(key))}\n\nThe secret, which is shown only now:\n{secret}")


_VERBS: dict[str, Callable[[argparse.Namespace, KeyAdministration, Settings], Awaitable[None]]] = {
    "add": _add,
    "list": _list,
    "show": _show,
    "set": _set,
    "rotate": _rotate,
    "revoke": _revoke,
    "usage": _usage,
}
