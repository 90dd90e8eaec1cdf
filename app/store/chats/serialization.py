"""Convert turns to JSON documents and back."""

import json
from typing import Any

from app.domain.chat import Turn, TurnState
from app.store import serialization
from app.store.serialization import NameBlob, OpenBlob

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


def excerpt(text: str, chars: int) -> str:
    """Return the text, or its first `chars` characters and an ellipsis."""
    return text if len(text) <= chars else f"{text[:chars]}…"


def dump_turn(turn: Turn, name_blob: NameBlob) -> dict[str, Any]:
    """Return the turn's document. Fields that have columns of their own are left out."""
    return {
        **{name: getattr(turn, name) for name in _PLAIN_FIELDS},
        "user": [serialization.dump_part(one, name_blob) for one in turn.user],
        "answer": [serialization.dump_part(one, name_blob) for one in turn.answer],
        "references": [serialization.dump_reference(one, name_blob) for one in turn.references],
        "image": serialization.dump_image(turn.image, name_blob) if turn.image else None,
        "grounding": serialization.dump_grounding(turn.grounding),
        "usage": serialization.dump_usage(turn.usage),
        "warnings": list(turn.warnings),
    }


@serialization.raises_storage_damaged
def load_turn(row: Any, open_blob: OpenBlob) -> Turn:
    """Return the turn of a row."""
    return turn_of(
        json.loads(row.document),
        open_blob,
        number=row.number,
        state=row.state,
        created_at=row.created_at,
        replaced_by=row.replaced_by,
        copied=row.copied,
    )


def turn_of(document: dict[str, Any], open_blob: OpenBlob, *, state: str, **columns: Any) -> Turn:
    """Return the turn of a document.

    Args:
        document: as `dump_turn` returns it.
        open_blob: opens the blobs that it names.
        state: of the turn.
        columns: the other fields that are not in the document.
    """
    return Turn(
        state=TurnState(state),
        **columns,
        **{name: document[name] for name in _PLAIN_FIELDS if name in document},
        user=tuple(serialization.load_part(one, open_blob) for one in document["user"]),
        answer=tuple(serialization.load_part(one, open_blob) for one in document["answer"]),
        references=tuple(serialization.load_reference(one, open_blob) for one in document["references"]),
        image=serialization.load_image(document["image"], open_blob) if document["image"] else None,
        grounding=serialization.load_grounding(document["grounding"]),
        usage=serialization.load_usage(document["usage"]),
        warnings=tuple(document["warnings"]),
    )
