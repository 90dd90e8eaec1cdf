"""Chats and turns as JSON documents, and back. Bytes stay outside: a document names them by digest and size."""

import json
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from pydantic import TypeAdapter

from app.domain.chat import ChatDefaults, Turn, TurnState
from app.domain.errors import StorageDamaged
from app.domain.generation import Grounding, Image, Part, Reference, Role, Usage
from app.lib.base64_json import Content

_DEFAULTS = TypeAdapter(ChatDefaults)
_USAGE = TypeAdapter(Usage)
_GROUNDING = TypeAdapter(Grounding)

Named = Callable[[Content], tuple[str, int]]
"""Name and size of a content that has been stored."""

Opened = Callable[[str, int], Content]
"""The way back."""

_PLAIN = ("prompt", "model", "context_inlined", "generation_id", "text", "model_version", "finish_reason", "problem")


P = ParamSpec("P")
R = TypeVar("R")


def raises_storage_damaged(read: Callable[P, R]) -> Callable[P, R]:
    """What reads a document says so if that is none: `StorageDamaged`."""

    @wraps(read)
    def told(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return read(*args, **kwargs)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            detail = "What the database has of this chat cannot be read."
            raise StorageDamaged(detail, part="database", cause=type(error).__name__) from error

    return told


def defaults_written(defaults: ChatDefaults) -> dict[str, Any]:
    written: dict[str, Any] = _DEFAULTS.dump_python(defaults, mode="json", exclude_defaults=True)
    return written


def defaults_read(written: Mapping[str, Any]) -> ChatDefaults:
    return _DEFAULTS.validate_python(written)


def text_of(document: Mapping[str, Any]) -> str:
    return json.dumps(document, separators=(",", ":"))


def excerpt(text: str, chars: int) -> str:
    """The text, or its first `chars` characters and an ellipsis."""
    return text if len(text) <= chars else f"{text[:chars]}…"


def dump_turn(turn: Turn, named: Named) -> dict[str, Any]:
    """A document of the turn, but for what has columns."""

    def part(one: Part) -> dict[str, Any]:
        return {"fields": dict(one.fields), **_optional("data", one.data), **_optional("signature", one.signature)}

    def image(one: Image) -> dict[str, Any]:
        return {**_optional("data", one.content), "type": one.mime_type, "width": one.width, "height": one.height}

    def _optional(key: str, content: Content | None) -> dict[str, Any]:
        return {} if content is None else {key: list(named(content))}

    return {
        **{name: getattr(turn, name) for name in _PLAIN},
        "user": [part(one) for one in turn.user],
        "answer": [part(one) for one in turn.answer],
        "references": [{"image": image(one.image), "role": one.role, "name": one.name} for one in turn.references],
        "image": image(turn.image) if turn.image else None,
        "grounding": _GROUNDING.dump_python(turn.grounding, mode="json") if turn.grounding else None,
        "usage": _USAGE.dump_python(turn.usage, mode="json") if turn.usage else None,
        "warnings": list(turn.warnings),
    }


@raises_storage_damaged
def load_turn(row: Any, opened: Opened) -> Turn:
    """The turn of a row."""
    written: dict[str, Any] = json.loads(row.document)

    def content(named: list[Any] | None) -> Content | None:
        return None if named is None else opened(named[0], named[1])

    def part(one: dict[str, Any]) -> Part:
        return Part(one["fields"], content(one.get("data")), content(one.get("signature")))

    def image(one: dict[str, Any]) -> Image:
        return Image(opened(*one["data"]), one["type"], one["width"], one["height"])

    return Turn(
        number=row.number,
        state=TurnState(row.state),
        created_at=row.created_at,
        replaced_by=row.replaced_by,
        copied=row.copied,
        **{name: written[name] for name in _PLAIN if name in written},
        user=tuple(map(part, written["user"])),
        answer=tuple(map(part, written["answer"])),
        references=tuple(
            Reference(image(one["image"]), Role(one["role"]) if one["role"] else None, one["name"])
            for one in written["references"]
        ),
        image=image(written["image"]) if written["image"] else None,
        grounding=_GROUNDING.validate_python(written["grounding"]) if written["grounding"] else None,
        usage=_USAGE.validate_python(written["usage"]) if written["usage"] else None,
        warnings=tuple(written["warnings"]),
    )
