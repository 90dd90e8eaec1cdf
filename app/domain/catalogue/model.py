"""A catalogue entry, and what is derived from it: defaults, and the cost of a response."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from app.domain.catalogue.pixels import Size
from app.domain.generation import Role, Usage

MODEL_ID_PATTERN = r"^(models/)?[A-Za-z0-9_-]{1,64}(\.[A-Za-z0-9_-]{1,64}){0,4}$"
"""A model's id. It becomes part of a URL, so that slashes and `..` are not allowed."""

IMAGE_SIZES = ("512", "1K", "2K", "4K")
"""From small to large."""


Price = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class Prices:
    """List prices in US dollars, per million tokens and per Google Search query. `None` if the price is unknown."""

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    image_output: Price | None = None
    text_output: Price | None = None
    """Price of text and of thinking, whether or not the thoughts are returned."""
    input: Price | None = None
    search_query: Price | None = None
    """Price after the 5,000 free search requests a month, which all Gemini 3 models share."""


@dataclass(frozen=True)
class Model:
    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    id: str
    name: str
    is_known: bool = True
    """False for an id that is not in the catalogue. Then nothing is checked and no default is filled in."""
    status: Literal["active", "deprecated"] = "active"
    released: date | None = None
    retires: date | None = None
    """The earliest shutdown date that Google has announced."""
    replacement: str | None = None
    lifecycle: str | None = None
    """Details about the model's dates."""

    # An empty tuple of ratios or sizes means unknown: nothing is checked against it, and no default is chosen.
    aspect_ratios: tuple[str, ...] = ()
    vertex_aspect_ratios: tuple[str, ...] = ()
    """Further ratios, which Google's model cards list for Vertex only."""
    image_sizes: tuple[str, ...] = ()
    sends_image_size: bool = True
    """False if the model has one size only and Gemini's API has no parameter for it."""
    pixels: Mapping[str, Mapping[str, Size]] = field(default_factory=dict)
    output_type: str | None = None

    max_references: Count | None = None
    references_by_role: Mapping[Role, Count] | None = None
    """Limits by role; a missing role means 0. `None` if Google publishes no limits by role."""

    google_search: bool = False
    image_search: bool = False
    thinking: Literal["none", "fixed", "levels"] = "none"
    """`fixed`: the model always thinks, and a thinking level has no effect."""
    thinking_levels: tuple[str, ...] = ()
    thinking_default: str | None = None
    include_thoughts: bool = False

    input_tokens: Count | None = None
    output_tokens: Count | None = None
    prices: Prices = Prices()
    image_tokens: Mapping[str, Count] = field(default_factory=dict)
    """Output tokens of one image by image size. The ratio does not matter."""
    text_tokens_bound: Count = 2000
    """Thoughts and text of one response are normally fewer tokens."""

    def default_aspect_ratio(self) -> str | None:
        return "1:1" if "1:1" in self.aspect_ratios else None

    def default_image_size(self, max_size: str | None = None) -> str | None:
        """Return 2K, or the model's largest size below 2K. No size that is larger than `max_size` is returned."""
        most = min(IMAGE_SIZES.index(size) for size in ("2K", max_size) if size in IMAGE_SIZES)
        allowed = [size for size in IMAGE_SIZES[: most + 1] if size in self.image_sizes]
        return allowed[-1] if allowed else None

    def size_of(self, image_size: str | None) -> str | None:
        """Return the size of an image: the one that the request names, or the model's only one. `None` if unknown."""
        return image_size or (self.image_sizes[0] if len(self.image_sizes) == 1 else None)

    def cost(self, usage: Usage, queries: int) -> float | None:
        """Return the cost of a response in US dollars at list price; `None` if the model's image price is unknown.

        Text tokens, thoughts included, are computed as the total minus input and image tokens. Gemini's
        `candidatesTokenCount` is not used: it repeats the thoughts of a refusal, and otherwise exceeds the sum of its
        details. Free monthly search requests are not subtracted. Other unknown prices count as 0.
        """
        prices = self.prices
        if prices.image_output is None:
            return None
        text_tokens = max(0, usage.total_tokens - usage.prompt_tokens - usage.tool_tokens - usage.image_tokens)
        per_million = (
            usage.image_tokens * prices.image_output
            + text_tokens * (prices.text_output or 0)
            + usage.prompt_tokens * (prices.input or 0)
        )
        return round(per_million / 1_000_000 + queries * (prices.search_query or 0), 6)

    def image_price(self, image_size: str) -> float | None:
        """Return the price of one image of this size, without thinking, text and input."""
        tokens = self.image_tokens.get(image_size)
        if tokens is None or self.prices.image_output is None:
            return None
        return round(tokens * self.prices.image_output / 1_000_000, 4)

    def deprecation(self) -> str:
        """Return a warning for callers of a deprecated model."""
        when = f"; Google may shut it down from {self.retires} on" if self.retires else ""
        instead = f"; use {self.replacement}" if self.replacement else ""
        return f"{self.id} is deprecated{when}{instead}."


def unlisted(id_: str) -> Model:
    return Model(id=id_, name=id_, is_known=False)
