"""A generation as frozen values: `GenerationRequest` is what a caller asks for, `Generation` is the result.

A layer that adds information makes a new value (`dataclasses.replace`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from app.lib.base64_json import Content


class Role(StrEnum):
    """What a reference image is for."""

    CHARACTER = "character"
    OBJECT = "object"
    STYLE = "style"


@dataclass(frozen=True, slots=True)
class Image:
    """An image file. Type and size are read from the file itself, not from what its sender claims."""

    content: Content
    mime_type: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Reference:
    """An image that the caller sends as a model or for editing."""

    image: Image
    role: Role | None = None
    name: str | None = None
    warning: str | None = None
    """A warning for the caller about the uploaded file."""


@dataclass(frozen=True, slots=True)
class SafetySetting:
    """One of Gemini's adjustable filters and the threshold at which it blocks, as Google names them."""

    category: str
    threshold: str


@dataclass(frozen=True, slots=True)
class Part:
    """A part of content in Gemini's wire format."""

    fields: Mapping[str, Any]
    """The part's JSON without its two large strings, `data` and `signature`."""
    data: Content | None = None
    """The file in `inlineData`."""
    signature: Content | None = None
    """The decoded `thoughtSignature`."""

    @classmethod
    def from_text(cls, text: str) -> "Part":
        return cls({"text": text})

    @classmethod
    def from_image(cls, image: Image) -> "Part":
        return cls({"inlineData": {"mimeType": image.mime_type}}, image.content)

    @property
    def text(self) -> str:
        return str(self.fields.get("text") or "")

    @property
    def is_empty(self) -> bool:
        """Whether the part has no text, file, signature or other field with a value."""
        further = (value for name, value in self.fields.items() if name not in ("inlineData", "inline_data", "thought"))
        return not (self.contents or any(further))

    @property
    def contents(self) -> tuple[Content, ...]:
        return tuple(one for one in (self.data, self.signature) if one is not None)


@dataclass(frozen=True, slots=True)
class ContextTurn:
    """An earlier turn that is sent to Gemini again."""

    user: tuple[Part, ...]
    answer: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class ChatContext:
    """What is sent of a chat's earlier turns with the next one. See app/service/chats/history.py."""

    turns: tuple[ContextTurn, ...] = ()
    """Turns that are sent unchanged, as a conversation."""
    parts: tuple[Part, ...] = ()
    """Images that are sent within the new turn, if a conversation is not possible."""


@dataclass(frozen=True, slots=True)
class Output:
    """The file format that the caller asks for. With `None` in both fields the image stays as Gemini made it."""

    mime_type: str | None = None
    """`image/png`, `image/jpeg` or `image/webp`; `None` for the type of Gemini's image."""
    quality: int | None = None
    """1 to 100, for JPEG and WebP. `None` for the usual quality, if the image is converted at all."""


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """What a caller asks for. `None` means that the caller did not choose."""

    prompt: str
    model: str | None = None
    aspect_ratio: str | None = None
    image_size: str | None = None
    references: tuple[Reference, ...] = ()
    references_field: str = "referenceImages"
    """Name of the request field with the references, for error messages. A form names it `images`."""
    google_search: bool = False
    image_search: bool = False
    system_instruction: str | None = None
    thinking_level: str | None = None
    include_thoughts: bool = False
    include_drafts: bool = False
    seed: int | None = None
    safety_settings: tuple[SafetySetting, ...] = ()
    fallback_model: str | None = None
    """Model to ask if the first one has no capacity or quota; an id or an alias."""
    output: Output = Output()
    accepted_types: tuple[str, ...] = ()
    """Image media types that the caller accepts; empty for any type."""
    chat_context: ChatContext | None = None
    """Earlier turns of the chat. `None` for a request outside of a chat."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that Gemini counted for a call.

    `image_tokens` are those of `output_tokens` that encode images, `prompt_image_tokens` those of `prompt_tokens`.
    """

    prompt_tokens: int = 0
    output_tokens: int = 0
    thoughts_tokens: int = 0
    total_tokens: int = 0
    image_tokens: int = 0
    tool_tokens: int = 0
    prompt_image_tokens: int = 0
    estimated_cost_usd: float | None = None

    def with_cost(self, usd: float | None) -> "Usage":
        return replace(self, estimated_cost_usd=usd)


@dataclass(frozen=True, slots=True)
class WebSource:
    title: str
    uri: str


@dataclass(frozen=True, slots=True)
class ImageSource:
    """An image found by image search. `source_uri` is the page that contains it; a frontend must link to it."""

    title: str
    source_uri: str
    image_uri: str
    domain: str


@dataclass(frozen=True, slots=True)
class GroundingSupport:
    """A section of the answer's text and the sources that support it, as indices into Gemini's list of chunks."""

    text: str
    start_index: int
    end_index: int
    source_indices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Grounding:
    queries: tuple[str, ...] = ()
    sources: tuple[WebSource, ...] = ()
    image_sources: tuple[ImageSource, ...] = ()
    supports: tuple[GroundingSupport, ...] = ()
    search_suggestions_html: str | None = None


@dataclass(frozen=True, slots=True)
class Generation:
    """Gemini's answer with its image. An answer without an image is a `GenerationRefused` error."""

    id: str
    image: Image
    model: str
    usage: Usage
    model_version: str | None = None
    text: str | None = None
    thoughts: str | None = None
    drafts: tuple[Image, ...] = ()
    finish_reason: str | None = None
    grounding: Grounding | None = None
    warnings: tuple[str, ...] = ()
    attempts: int = 1
    """Calls to Gemini, retries included."""
    request_parts: tuple[Part, ...] = ()
    """For a chat: the parts sent to Gemini, without earlier turns."""
    response_parts: tuple[Part, ...] = ()
    """For a chat: Gemini's parts, unchanged, without its thoughts."""
    chat_context: ChatContext | None = None
    """For a chat: what was sent of earlier turns."""
    chat_id: str | None = None
    turn: int | None = None
    """Number of the turn that stores the generation; `None` outside of a chat."""

    @property
    def held_bytes(self) -> int:
        """Bytes that the images and thought signatures take in memory."""
        parts = {id(one): len(one) for part in self.response_parts for one in part.contents}
        images = {id(image.content): len(image.content) for image in (self.image, *self.drafts)}
        return sum((parts | images).values())
