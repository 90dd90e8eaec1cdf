"""Errors in settings, as sentences for the operator. They never quote a value that may be a secret."""

import os
from dataclasses import dataclass
from typing import Any

from pydantic import AliasChoices, ValidationError

from app.domain.catalogue import MODEL_ID_PATTERN
from app.lib.validation_messages import plain_message
from app.settings import Settings


@dataclass(frozen=True, slots=True)
class SettingError:
    """What is wrong with one environment variable."""

    variable: str
    message: str
    """A sentence that names the variable and quotes no value that may be a secret."""

    def __str__(self) -> str:
        return self.message

    @classmethod
    def of(cls, variable: str, predicate: str) -> "SettingError":
        """Return the error whose message is `variable`, a space and `predicate`."""
        return cls(variable, f"{variable} {predicate}")


def env_names(name: str) -> tuple[str, ...]:
    """Return the environment variables that a setting is read from. The last one is the documented one."""
    alias = Settings.model_fields[name].validation_alias
    return tuple(map(str, alias.choices)) if isinstance(alias, AliasChoices) else (name.upper(),)


def describe_errors(error: ValidationError) -> list[SettingError]:
    """Return one error for each invalid setting: the variable, what is wrong, its value's length, and its purpose."""
    return [_to_setting_error(dict(one)) for one in error.errors(include_url=False)]


def _to_setting_error(error: dict[str, Any]) -> SettingError:
    location: tuple[Any, ...] = error["loc"]
    if not location:
        message = str(error["msg"]).removeprefix("Value error, ")
        return SettingError(message.partition(":")[0], message)
    message = plain_message(error)
    if error.get("ctx", {}).get("pattern") == MODEL_ID_PATTERN:
        message = "is not a model's id or alias, such as gemini-3-pro-image"
    name = next((name for name in Settings.model_fields if location[0] in (name, *env_names(name))), None)
    length = f" (the value has {len(error['input'])} characters)" if isinstance(error["input"], str) else ""
    purpose = " ".join((Settings.model_fields[name].description or "").split()) if name else ""
    variable = _variable_in_use(name) if name else str(location[0])
    return SettingError(variable, f"{variable}: {message}{length}. {purpose}".rstrip())


def _variable_in_use(name: str) -> str:
    """Return the variable that is set in the environment for a setting; if none is set, the documented one."""
    present = {variable.upper() for variable, value in os.environ.items() if value}
    return next((variable for variable in env_names(name) if variable in present), env_names(name)[-1])
