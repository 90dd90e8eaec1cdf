"""Names of models in requests: Gemini's own ids and aliases, and the names of OpenAI's models in existing clients."""

from collections.abc import Mapping
from fnmatch import fnmatchcase

OPENAI_NAMES = ("gpt-image-*", "chatgpt-image-*", "dall-e-*")
"""Patterns of the names that clients have built in. They mean the default model."""


def gemini_model(name: str | None, aliases: Mapping[str, str]) -> str | None:
    """Return the name of a Gemini model; `None` for the default model.

    Args:
        name: as the caller sent it.
        aliases: model names by name or pattern, from `OPENAI_MODEL_ALIASES`. An exact name precedes a pattern.
    """
    if not name:
        return None
    name = name.removeprefix("models/")
    pattern = name if name in aliases else next((one for one in aliases if fnmatchcase(name, one)), None)
    if pattern is not None:
        return aliases[pattern]
    return None if any(fnmatchcase(name, one) for one in OPENAI_NAMES) else name
