"""Misfortunes to order: what a test, or somebody who builds a frontend, wants Gemini to do next."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict

Shape = Literal[
    "text_only",
    "base64_in_text",
    "image_in_thought",
    "unflagged_drafts",
    "image_first",
    "empty_parts",
    "empty_candidate",
    "no_candidates",
]


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to the next `times` calls instead of, or on top of, the ordinary answer."""

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    times: int = 1
    prompt: str | None = None
    """Only calls whose last text is this are meant; others pass."""

    status: int | None = None
    """An error with this HTTP status, in Google's envelope."""
    message: str = "Scripted by the emulator."
    error_status: str | None = None
    """Google's canonical name; guessed from `status` if left out."""
    details: list[dict[str, Any]] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    html: bool = False
    """The error, or the answer, is a web page."""
    after_chunks: int | None = None
    """The error comes in a stream, behind so many of its chunks: as JSON over several lines, without `data:`."""
    body: str | None = None
    """These very characters as the body of the answer."""

    delay_seconds: float = 0
    """Time before the first byte of the answer."""
    stall_seconds: float = 0
    """Silence in the middle of the answer's body."""
    reset: Literal["before_headers", "in_body"] | None = None
    """The connection is reset."""
    truncate: bool = False
    """The body ends in the middle, and is announced to be no longer than that."""
    chunk_bytes: int | None = None
    """The answer's body comes in chunks of this size."""
    gzip: bool = False
    """The body is compressed whether or not the client asked for it."""

    finish_reason: str | None = None
    """The image is withheld for this reason."""
    finish_message: str | None = None
    block_reason: str | None = None
    """The prompt is blocked for this reason."""
    shape: Shape | None = None
    """The answer's parts come in an order that real answers have come in."""
    mime_type: str | None = None
    """The image is declared to be of this type, whatever it is."""
    image_base64: str | None = None
    """The image is this instead of a drawing."""
    text: str | None = None
    """The model says this."""
    patch: dict[str, Any] = field(default_factory=dict)
    """Laid over the answer's JSON: objects are merged, `{"0": …}` changes an item of a list, the rest is replaced."""


def merge_patch(document: Any, patch: Any) -> Any:
    """`document` with `patch` laid over it."""
    if isinstance(document, dict) and isinstance(patch, dict):
        return {
            key: merge_patch(document.get(key), patch[key]) if key in patch else document[key]
            for key in document | patch
        }
    if isinstance(document, list) and isinstance(patch, dict):
        return [
            merge_patch(item, patch[str(index)]) if str(index) in patch else item for index, item in enumerate(document)
        ]
    return patch


CANONICAL = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
