"""The values everything else talks about: no HTTP in here, and no Gemini.

`GenerationRequest` goes in, `Generation` comes out. All of them are frozen; what a layer learns on the way is said in a
new value (`dataclasses.replace`).
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
    """An image file, with what its own header says of it (a claimed type or size is never kept)."""

    content: Content
    mime_type: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Reference:
    """An image sent in to be followed or changed."""

    image: Image
    role: Role | None = None
    name: str | None = None
    warning: str | None = None
    """What the caller should know about how the upload was read."""


@dataclass(frozen=True, slots=True)
class SafetySetting:
    """One of Gemini's adjustable filters and where it starts to block, both in Google's own words."""

    category: str
    threshold: str


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of what is said in a chat, as Gemini's wire has it."""

    fields: Mapping[str, Any]
    """Its JSON, without the two strings that are large."""
    data: Content | None = None
    """The file of its `inlineData`."""
    signature: Content | None = None
    """Its `thoughtSignature`."""

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
        """Whether it carries nothing: no text, no file, no signature, and no field that we do not know."""
        further = (value for name, value in self.fields.items() if name not in ("inlineData", "inline_data", "thought"))
        return not (self.contents or any(further))

    @property
    def contents(self) -> tuple[Content, ...]:
        return tuple(one for one in (self.data, self.signature) if one is not None)


@dataclass(frozen=True, slots=True)
class ContextTurn:
    """A turn that goes to Gemini again, so that the next one can build upon it."""

    user: tuple[Part, ...]
    answer: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class ChatContext:
    """What of a chat goes along with its next turn."""

    turns: tuple[ContextTurn, ...] = ()
    """Word for word, as a conversation."""
    parts: tuple[Part, ...] = ()
    """Within the turn itself, where a conversation cannot be had."""


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """What a caller asks for. `None` means that the caller left it open."""

    prompt: str
    model: str | None = None
    aspect_ratio: str | None = None
    image_size: str | None = None
    references: tuple[Reference, ...] = ()
    references_field: str = "referenceImages"
    """What the caller calls the field with the references: a form's has another name."""
    google_search: bool = False
    image_search: bool = False
    system_instruction: str | None = None
    thinking_level: str | None = None
    include_thoughts: bool = False
    include_drafts: bool = False
    seed: int | None = None
    safety_settings: tuple[SafetySetting, ...] = ()
    fallback_model: str | None = None
    """Whom to ask if the model is out of capacity; an id or an alias."""
    accepted_types: tuple[str, ...] = ()
    """The image types the caller can take; empty when any will do."""
    chat_context: ChatContext | None = None
    """What of a chat goes along. `None` is a request outside of any, whose answer need not be remembered."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a call cost, in Gemini's tokens; `image_tokens` is the part of `output_tokens` that drew pixels."""

    prompt_tokens: int = 0
    output_tokens: int = 0
    thoughts_tokens: int = 0
    total_tokens: int = 0
    image_tokens: int = 0
    tool_tokens: int = 0
    estimated_cost_usd: float | None = None

    def with_cost(self, usd: float | None) -> "Usage":
        return replace(self, estimated_cost_usd=usd)


@dataclass(frozen=True, slots=True)
class WebSource:
    title: str
    uri: str


@dataclass(frozen=True, slots=True)
class ImageSource:
    """An image found by image search; `source_uri` is the page that contains it, which a frontend has to link to."""

    title: str
    source_uri: str
    image_uri: str
    domain: str


@dataclass(frozen=True, slots=True)
class GroundingSupport:
    """A piece of the answer's text and the sources, by their place in the chunks Gemini listed, that it rests on."""

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
    """An answer with an image in hand. Anything less is a `ServiceError`."""

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
    """Calls to Gemini that it took."""
    request_parts: tuple[Part, ...] = ()
    """For a chat: what was the caller's side."""
    response_parts: tuple[Part, ...] = ()
    """For a chat: what Gemini said, part for part, without its thoughts."""
    chat_context: ChatContext | None = None
    """For a chat: what of it Gemini was told again."""
    chat_id: str | None = None
    turn: int | None = None
    """Where it is kept, if it is."""

    @property
    def held_bytes(self) -> int:
        """What its images, and whatever else of it is large, take in memory."""
        kept = {id(one): len(one) for part in self.response_parts for one in part.contents}
        images = {id(image.content): len(image.content) for image in (self.image, *self.drafts)}
        return sum((kept | images).values())


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. Limits and budgets hang on the name."""

    name: str
    keyed: bool = False
    """Whether a key says so. Without keys the name is only a word for everybody."""

    @property
    def owner(self) -> str:
        """Whose things are theirs: a key that is called like everybody is not everybody."""
        return f"key:{self.name}" if self.keyed else self.name
