"""What is wrong with the settings, in words for whoever has written them: never the values, which may be secrets."""

from typing import Any

from pydantic import AliasChoices, ValidationError

from app.settings import Settings


def variables(name: str) -> tuple[str, ...]:
    """The environment variables that a setting is read from, the documented one last."""
    alias = Settings.model_fields[name].validation_alias
    return tuple(map(str, alias.choices)) if isinstance(alias, AliasChoices) else (name.upper(),)


def complaints(error: ValidationError) -> list[str]:
    """A line for each setting that is wrong: the variable, what is wrong, the shape of its value, what it is for."""
    return [_complaint(dict(one)) for one in error.errors(include_url=False)]


def _complaint(wrong: dict[str, Any]) -> str:
    location: tuple[Any, ...] = wrong["loc"]
    message = str(wrong["msg"]).removeprefix("Value error, ")
    if not location:
        return message
    name = next((name for name in Settings.model_fields if location[0] in (name, *variables(name))), None)
    shape = f" (it has {len(wrong['input'])} characters)" if isinstance(wrong["input"], str) else ""
    meant = " ".join((Settings.model_fields[name].description or "").split()) if name else ""
    return (
        f"{variables(name)[-1] if name else location[0]}: {message[:1].lower() + message[1:]}{shape}. {meant}".rstrip()
    )
