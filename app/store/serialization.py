"""Convert what chats and generations have in common to JSON documents and back.

A document names blobs by name and size; it holds no bytes.
"""

import json
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from pydantic import TypeAdapter

from app.domain.chat import ChatDefaults
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

P = ParamSpec("P")
R = TypeVar("R")


def raises_storage_damaged(read: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function that reads a document: invalid documents raise `StorageDamaged`."""

    @wraps(read)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return read(*args, **kwargs)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            detail = "Stored data cannot be read."
            raise StorageDamaged(detail, part="database", cause=type(error).__name__) from error

    return checked


def to_json(document: Mapping[str, Any]) -> str:
    return json.dumps(document, separators=(",", ":"))


def dump_defaults(defaults: ChatDefaults) -> dict[str, Any]:
    document: dict[str, Any] = _DEFAULTS.dump_python(defaults, mode="json", exclude_defaults=True)
    return document


def load_defaults(document: Mapping[str, Any]) -> ChatDefaults:
    return _DEFAULTS.validate_python(document)


def dump_usage(usage: Usage | None) -> Any:
    return _USAGE.dump_python(usage, mode="json") if usage else None


def load_usage(document: Any) -> Usage | None:
    return _USAGE.validate_python(document) if document else None


def dump_grounding(grounding: Grounding | None) -> Any:
    return _GROUNDING.dump_python(grounding, mode="json") if grounding else None


def load_grounding(document: Any) -> Grounding | None:
    return _GROUNDING.validate_python(document) if document else None


def dump_part(part: Part, name_blob: NameBlob) -> dict[str, Any]:
    document: dict[str, Any] = {"fields": dict(part.fields)}
    if part.data is not None:
        document["data"] = list(name_blob(part.data))
    if part.signature is not None:
        document["signature"] = list(name_blob(part.signature))
    return document


def load_part(document: dict[str, Any], open_blob: OpenBlob) -> Part:
    data, signature = document.get("data"), document.get("signature")
    return Part(
        document["fields"],
        None if data is None else open_blob(*data),
        None if signature is None else open_blob(*signature),
    )


def dump_image(image: Image, name_blob: NameBlob) -> dict[str, Any]:
    return {
        "data": list(name_blob(image.content)),
        "type": image.mime_type,
        "width": image.width,
        "height": image.height,
    }


def load_image(document: dict[str, Any], open_blob: OpenBlob) -> Image:
    return Image(open_blob(*document["data"]), document["type"], document["width"], document["height"])


def dump_reference(reference: Reference, name_blob: NameBlob) -> dict[str, Any]:
    return {"image": dump_image(reference.image, name_blob), "role": reference.role, "name": reference.name}


def load_reference(document: dict[str, Any], open_blob: OpenBlob) -> Reference:
    role = Role(document["role"]) if document["role"] else None
    return Reference(load_image(document["image"], open_blob), role, document["name"])
