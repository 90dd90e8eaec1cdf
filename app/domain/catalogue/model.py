"""The shape of a catalogue entry, and what follows from one: the cost of an answer, the size of a picture."""

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
    """US dollars: per million tokens, and per Google Search query. `None` is a price nobody could name."""

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    image_output: Price | None = None
    text_output: Price | None = None
    """Also what thinking costs, shown or not."""
    input: Price | None = None
    search_query: Price | None = None
    """Beyond the 5,000 free search requests a month that all Gemini 3 models share."""


@dataclass(frozen=True)
class Model:
    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    id: str
    name: str
    is_known: bool = True
    """False for an id that somebody sent and we know nothing about: nothing is checked, and no default is filled in."""
    status: Literal["active", "deprecated"] = "active"
    released: date | None = None
    retires: date | None = None
    """The earliest day on which Google may switch it off, where Google has named one."""
    replacement: str | None = None
    lifecycle: str | None = None
    """What a date alone would not tell."""

    # An empty list of ratios or sizes is one that nobody knows: nothing is checked against it, and no default chosen.
    aspect_ratios: tuple[str, ...] = ()
    vertex_aspect_ratios: tuple[str, ...] = ()
    """Further ones that Google's cards list for Vertex only."""
    image_sizes: tuple[str, ...] = ()
    sends_image_size: bool = True
    """False where the wire has no such knob and the only size comes by itself."""
    pixels: Mapping[str, Mapping[str, Size]] = field(default_factory=dict)
    output_type: str | None = None

    max_references: Count | None = None
    references_by_role: Mapping[Role, Count] | None = None
    """`None` where Google names no slots; a role that is missing from a mapping has none."""

    google_search: bool = False
    image_search: bool = False
    thinking: Literal["none", "fixed", "levels"] = "none"
    """`fixed`: it always thinks, and a level is accepted without effect."""
    thinking_levels: tuple[str, ...] = ()
    thinking_default: str | None = None
    include_thoughts: bool = False

    input_tokens: Count | None = None
    output_tokens: Count | None = None
    prices: Prices = Prices()
    image_tokens: Mapping[str, Count] = field(default_factory=dict)
    """Output tokens that one picture takes, by image size, whatever its ratio."""

    def default_aspect_ratio(self) -> str | None:
        return "1:1" if "1:1" in self.aspect_ratios else None

    def default_image_size(self) -> str | None:
        """2K, or the largest below it that the model has."""
        up_to_2k = [size for size in IMAGE_SIZES[:3] if size in self.image_sizes]
        return up_to_2k[-1] if up_to_2k else None

    def cost(self, usage: Usage, queries: int) -> float | None:
        """What an answer costs in US dollars at list price, from its usage.

        Thinking and text share a price. They are what the total leaves after the input and the pictures, because
        `candidatesTokenCount` repeats the thoughts of a refusal and exceeds the sum of its own details otherwise.
        The free monthly search requests are not subtracted. Without a price for pictures the answer is `None`; other
        prices that are not known count as nothing.
        """
        prices = self.prices
        if prices.image_output is None:
            return None
        words = max(0, usage.total_tokens - usage.prompt_tokens - usage.tool_tokens - usage.image_tokens)
        per_million = (
            usage.image_tokens * prices.image_output
            + words * (prices.text_output or 0)
            + usage.prompt_tokens * (prices.input or 0)
        )
        return round(per_million / 1_000_000 + queries * (prices.search_query or 0), 6)

    def image_price(self, image_size: str) -> float | None:
        """What one picture of that size costs, thinking, text and input aside."""
        tokens = self.image_tokens.get(image_size)
        if tokens is None or self.prices.image_output is None:
            return None
        return round(tokens * self.prices.image_output / 1_000_000, 4)

    def deprecation(self) -> str:
        """One sentence for a caller who uses the model all the same."""
        when = f"; it may be switched off from {self.retires}" if self.retires else ""
        instead = f"; use {self.replacement}" if self.replacement else ""
        return f"{self.id} is deprecated{when}{instead}."


def unlisted(id_: str) -> Model:
    return Model(id=id_, name=id_, is_known=False)
