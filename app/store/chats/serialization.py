"""Convert chats and turns to JSON documents and back. A document names blobs by name and size; it holds no bytes."""

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

NameBlob = Callable[[Content], tuple[str, int]]
"""Returns name and size of the blob in which a content is stored."""

OpenBlob = Callable[[str, int], Content]
"""Returns the blob with this name and size."""

_PLAIN_FIELDS = (
    "prompt",
    "model",
    "context_inlined",
    "generation_id",
    "text",
    "model_version",
    "finish_reason",
    "problem",
)

P = ParamSpec("P")
R = TypeVar("R")


def raises_storage_damaged(read: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function that reads a document: invalid documents raise `StorageDamaged`."""

    @wraps(read)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return read(*args, **kwargs)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            detail = "The stored data of this chat cannot be read."
            raise StorageDamaged(detail, part="database", cause=type(error).__name__) from error

    return checked


def dump_defaults(defaults: ChatDefaults) -> dict[str, Any]:
    document: dict[str, Any] = _DEFAULTS.dump_python(defaults, mode="json", exclude_defaults=True)
    return document


def load_defaults(document: Mapping[str, Any]) -> ChatDefaults:
    return _DEFAULTS.validate_python(document)


def to_json(document: Mapping[str, Any]) -> str:
    return json.dumps(document, separators=(",", ":"))


def excerpt(text: str, chars: int) -> str:
    """Return the text, or its first `chars` characters and an ellipsis."""
    return text if len(text) <= chars else f"{text[:chars]}…"


def dump_turn(turn: Turn, name_blob: NameBlob) -> dict[str, Any]:
    """Return the turn's document. Fields that have columns of their own are left out."""

    def part(one: Part) -> dict[str, Any]:
        return {"fields": dict(one.fields), **_optional("data", one.data), **_optional("signature", one.signature)}

    def image(one: Image) -> dict[str, Any]:
        return {**_optional("data", one.content), "type": one.mime_type, "width": one.width, "height": one.height}

    def _optional(key: str, content: Content | None) -> dict[str, Any]:
        return {} if content is None else {key: list(name_blob(content))}

    return {
        **{name: getattr(turn, name) for name in _PLAIN_FIELDS},
        "user": [part(one) for one in turn.user],
        "answer": [part(one) for one in turn.answer],
        "references": [{"image": image(one.image), "role": one.role, "name": one.name} for one in turn.references],
        "image": image(turn.image) if turn.image else None,
        "grounding": _GROUNDING.dump_python(turn.grounding, mode="json") if turn.grounding else None,
        "usage": _USAGE.dump_python(turn.usage, mode="json") if turn.usage else None,
        "warnings": list(turn.warnings),
    }


@raises_storage_damaged
def load_turn(row: Any, open_blob: OpenBlob) -> Turn:
    """Return the turn of a row."""
    document: dict[str, Any] = json.loads(row.document)

    def content(named: list[Any] | None) -> Content | None:
        return None if named is None else open_blob(named[0], named[1])

    def part(value: dict[str, Any]) -> Part:
        return Part(value["fields"], content(value.get("data")), content(value.get("signature")))

    def image(one: dict[str, Any]) -> Image:
        return Image(open_blob(*one["data"]), one["type"], one["width"], one["height"])

    return Turn(
        number=row.number,
        state=TurnState(row.state),
        created_at=row.created_at,
        replaced_by=row.replaced_by,
        copied=row.copied,
        **{name: document[name] for name in _PLAIN_FIELDS if name in document},
        user=tuple(map(part, document["user"])),
        answer=tuple(map(part, document["answer"])),
        references=tuple(
            Reference(image(one["image"]), Role(one["role"]) if one["role"] else None, one["name"])
            for one in document["references"]
        ),
        image=image(document["image"]) if document["image"] else None,
        grounding=_GROUNDING.validate_python(document["grounding"]) if document["grounding"] else None,
        usage=_USAGE.validate_python(document["usage"]) if document["usage"] else None,
        warnings=tuple(document["warnings"]),
    )
