"""What is wrong with the settings, in words for the operator: never the values, which may be secrets."""

import os
from dataclasses import dataclass
from typing import Any

from pydantic import AliasChoices, ValidationError

from app.settings import MODEL_ID, Settings


@dataclass(frozen=True, slots=True)
class Complaint:
    """A fault of one environment variable."""

    variable: str
    sentence: str
    """Names the variable, and quotes no value that may be secret."""

    def __str__(self) -> str:
        return self.sentence

    @classmethod
    def that(cls, variable: str, predicate: str) -> "Complaint":
        """`variable` and what is wrong with it, as one sentence."""
        return cls(variable, f"{variable} {predicate}")


def variables(name: str) -> tuple[str, ...]:
    """The environment variables that a setting is read from, the documented one last."""
    alias = Settings.model_fields[name].validation_alias
    return tuple(map(str, alias.choices)) if isinstance(alias, AliasChoices) else (name.upper(),)


def complaints(error: ValidationError) -> list[Complaint]:
    """One for each setting that is wrong: the variable, what is wrong, the shape of its value, what it is for."""
    return [_complaint(dict(one)) for one in error.errors(include_url=False)]


def _complaint(wrong: dict[str, Any]) -> Complaint:
    location: tuple[Any, ...] = wrong["loc"]
    message = str(wrong["msg"]).removeprefix("Value error, ")
    if not location:
        return Complaint(message.partition(":")[0], message)
    if wrong.get("ctx", {}).get("pattern") == MODEL_ID:
        message = "is not a model's id or alias, such as gemini-3-pro-image"
    name = next((name for name in Settings.model_fields if location[0] in (name, *variables(name))), None)
    shape = f" (it has {len(wrong['input'])} characters)" if isinstance(wrong["input"], str) else ""
    meant = " ".join((Settings.model_fields[name].description or "").split()) if name else ""
    variable = _in_use(name) if name else str(location[0])
    return Complaint(variable, f"{variable}: {message[:1].lower() + message[1:]}{shape}. {meant}".rstrip())


def _in_use(name: str) -> str:
    """The variable that a setting has its value from, as far as the environment tells; else the documented one."""
    given = {variable.upper() for variable, value in os.environ.items() if value}
    return next((variable for variable in variables(name) if variable in given), variables(name)[-1])
