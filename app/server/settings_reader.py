"""Reading the settings even if some are invalid, so that all errors are found in one start.

An invalid setting is reported and replaced by its default. Names that look like a mistyped setting are reported too.
"""

import difflib
import functools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dotenv.parser import Binding, parse_stream
from pydantic import ValidationError

from app.server.settings_errors import SettingError, describe_errors, env_names
from app.settings import Settings

ENV_FILE = Path(".env")

_SIMILARITY = 0.88
"""Similarity, from 0 to 1, from which an unknown environment variable counts as a mistyped setting."""

_SIMILARITY_IN_ENV_FILE = 0.7
"""The same for a name in `.env`. It is lower because such a name is certainly wrong."""

_PLACEHOLDERS = {"gemini_api_key": "placeholder", "google_cloud_project": "placeholder"}
"""Values for invalid settings whose default is `None`. Without them, later checks would report missing settings."""


def read_settings() -> tuple[Settings, list[SettingError]]:
    """Read the environment and `.env`.

    Returns:
        The settings, with a default or a placeholder for each invalid one; and the errors.
    """
    errors, is_readable = _check_env_file()
    source: dict[str, Any] = {} if is_readable else {"_env_file": None}
    replaced: dict[str, Any] = {}
    while True:
        try:
            return Settings(**source, **replaced), errors
        except ValidationError as error:
            new = describe_errors(error)
            errors += new
            names = [name for one in new for name in _fields_of(one.variable) if name not in replaced]
            assert names, "every validation error names a setting"
            for name in names:
                default = Settings.model_fields[name].get_default(call_default_factory=True)
                replaced[name] = _PLACEHOLDERS.get(name, default)


def find_mistyped_variables() -> Iterator[SettingError]:
    """Yield environment variables that look like a mistyped setting.

    They are warnings, because another program may use such a variable.
    """
    known = set(_known_variables())
    for name in os.environ:
        if name.upper() not in known and len(name) > 5 and (nearest := _nearest(name)) and nearest not in os.environ:
            yield SettingError.of(name, f"is not a setting, and this service does not read it. Is {nearest} meant?")


def find_unlisted_models(settings: Settings) -> Iterator[SettingError]:
    """Yield the models of the settings that the catalogue does not list, as warnings: Gemini may know them."""
    catalogue = settings.catalogue
    for variable, name in (("DEFAULT_MODEL", settings.default_model), ("FALLBACK_MODEL", settings.fallback_model)):
        if name is not None and not catalogue.resolve(name).model.is_known:
            similar = difflib.get_close_matches(name, [*catalogue.models, *catalogue.aliases], 1)
            hint = f" Is {similar[0]} meant?" if similar else ""
            yield SettingError.of(variable, f"{name} is not a model that this service knows.{hint}")


def _fields_of(variable: str) -> list[str]:
    if variable == "EXTRA_MODELS":
        return ["extra_models", "model_aliases"]
    return [name for name in Settings.model_fields if variable in env_names(name)]


@functools.cache
def _known_variables() -> tuple[str, ...]:
    return tuple(variable for name in Settings.model_fields for variable in env_names(name))


def _nearest(name: str, similarity: float = _SIMILARITY) -> str | None:
    matches = difflib.get_close_matches(name.upper(), _known_variables(), 1, similarity)
    return matches[0] if matches else None


def _check_env_file() -> tuple[list[SettingError], bool]:
    """Return the errors of `.env`, and whether its settings can be read."""
    if not ENV_FILE.is_file():
        return [], False
    try:
        with ENV_FILE.open(encoding="utf-8-sig") as stream:
            lines = list(parse_stream(stream))
    except UnicodeDecodeError:
        return [SettingError.of(".env", "is not UTF-8; save it as UTF-8.")], False
    except OSError as error:
        return [SettingError.of(".env", f"cannot be read: {error.strerror}.")], False
    return list(filter(None, map(_check_line, lines))), True


def _check_line(line: Binding) -> SettingError | None:
    number = line.original.line
    if line.error or (line.key and line.value is None):
        return SettingError.of(".env", f"has a line {number} that is not of the form NAME=value.")
    if not line.key or line.key.upper() in _known_variables():
        return None
    nearest = _nearest(line.key, _SIMILARITY_IN_ENV_FILE)
    # Other text may be a key that was pasted without a name. Some keys end in an equals sign.
    is_name = nearest or re.fullmatch("[A-Z_][A-Z0-9_]*", line.key)
    hint = "Set variables of other programs in the environment."
    if nearest:
        hint = f"Is {nearest} meant? CHANGELOG.md lists renamed settings."
    return SettingError.of(line.key if is_name else f"Line {number}", f"in .env does not name a setting. {hint}")
