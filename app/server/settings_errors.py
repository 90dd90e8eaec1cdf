"""What is wrong with the settings, in words for the operator: never the values, which may be secrets."""

import os
from dataclasses import dataclass
from typing import Any

from pydantic import AliasChoices, ValidationError

from app.settings import MODEL_ID_PATTERN, Settings


@dataclass(frozen=True, slots=True)
class SettingError:
    """A fault of one environment variable."""

    variable: str
    sentence: str
    """Names the variable, and quotes no value that may be secret."""

    def __str__(self) -> str:
        return self.sentence

    @classmethod
    def that(cls, variable: str, predicate: str) -> "SettingError":
        """`variable` and what is wrong with it, as one sentence."""
        return cls(variable, f"{variable} {predicate}")


def env_names(name: str) -> tuple[str, ...]:
    """The environment variables that a setting is read from, the documented one last."""
    alias = Settings.model_fields[name].validation_alias
    return tuple(map(str, alias.choices)) if isinstance(alias, AliasChoices) else (name.upper(),)


def describe_errors(error: ValidationError) -> list[SettingError]:
    """One for each setting that is wrong: the variable, what is wrong, the shape of its value, what it is for."""
    return [_to_setting_error(dict(one)) for one in error.errors(include_url=False)]


def _to_setting_error(wrong: dict[str, Any]) -> SettingError:
    location: tuple[Any, ...] = wrong["loc"]
    message = str(wrong["msg"]).removeprefix("Value error, ")
    if not location:
        return SettingError(message.partition(":")[0], message)
    if wrong.get("ctx", {}).get("pattern") == MODEL_ID_PATTERN:
        message = "is not a model's id or alias, such as gemini-3-pro-image"
    name = next((name for name in Settings.model_fields if location[0] in (name, *env_names(name))), None)
    shape = f" (it has {len(wrong['input'])} characters)" if isinstance(wrong["input"], str) else ""
    meant = " ".join((Settings.model_fields[name].description or "").split()) if name else ""
    variable = _variable_in_use(name) if name else str(location[0])
    return SettingError(variable, f"{variable}: {message[:1].lower() + message[1:]}{shape}. {meant}".rstrip())


def _variable_in_use(name: str) -> str:
    """The variable that a setting has its value from, as far as the environment tells; else the documented one."""
    given = {variable.upper() for variable, value in os.environ.items() if value}
    return next((variable for variable in env_names(name) if variable in given), env_names(name)[-1])
