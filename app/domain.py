"""The values everything else talks about: no HTTP in here, and no Gemini.

`GenerationRequest` goes in, `Generation` comes out. All of them are frozen; what a layer learns on the way is said in a
new value (`dataclasses.replace`).
"""

from dataclasses import dataclass, replace
from enum import StrEnum

from app.lifting import Content


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


@dataclass(frozen=True, slots=True)
class SafetySetting:
    """One of Gemini's adjustable filters and where it starts to block, both in Google's own words."""

    category: str
    threshold: str


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """What a caller asks for. `None` means that the caller left it open."""

    prompt: str
    model: str | None = None
    aspect_ratio: str | None = None
    image_size: str | None = None
    references: tuple[Reference, ...] = ()
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

    def costing(self, usd: float | None) -> "Usage":
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
class Support:
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
    supports: tuple[Support, ...] = ()
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


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. Limits, budgets and ownership hang on the name."""

    name: str
