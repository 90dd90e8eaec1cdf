"""Faults: what the emulator does wrong on the next calls, for tests and for frontend developers."""

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
    """A scripted failure of the next `times` calls. It replaces the normal answer or changes it."""

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    times: int = 1
    prompt: str | None = None
    """Apply the fault only to calls with this prompt."""

    status: int | None = None
    """Answer with this HTTP status, and an error in Google's format."""
    message: str = "Scripted by the emulator."
    error_status: str | None = None
    """Google's canonical name of the error; derived from `status` by default."""
    details: list[dict[str, Any]] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    html: bool = False
    """Answer with a web page instead of JSON."""
    after_chunks: int | None = None
    """Send the error inside a stream, after this number of chunks. As Google does, it is JSON on several lines, without
    `data:`."""
    body: str | None = None
    """Answer with exactly this body."""

    delay_seconds: float = 0
    """Wait before the first byte of the answer."""
    stall_seconds: float = 0
    """Pause in the middle of the answer's body."""
    reset: Literal["before_headers", "in_body"] | None = None
    """Reset the connection at this point."""
    truncate: bool = False
    """Send only the first half of the body, with the `Content-Length` of that half."""
    chunk_bytes: int | None = None
    """Send the body in HTTP chunks of this size."""
    gzip: bool = False
    """Compress the body even if the client does not accept it."""

    finish_reason: str | None = None
    """Answer without an image, with this finish reason."""
    finish_message: str | None = None
    block_reason: str | None = None
    """Block the prompt for this reason."""
    shape: Shape | None = None
    """Arrange the answer's parts in one of the unusual ways that were seen in real answers."""
    mime_type: str | None = None
    """Declare this MIME type, even if the image has another one."""
    image_base64: str | None = None
    """Send this image instead of a generated one."""
    text: str | None = None
    """The text of the answer."""
    patch: dict[str, Any] = field(default_factory=dict)
    """Merged into the answer's JSON: objects are merged, `{"0": …}` changes an item of a list, and other values are
    replaced."""


def merge_patch(document: Any, patch: Any) -> Any:
    """Return `document` with `patch` merged into it, as `Fault.patch` describes."""
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
