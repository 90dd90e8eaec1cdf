"""The models that Google serves.

Sources: Google's image generation guide (2026-09-08), model cards, pricing and deprecations pages, and the changelog up
to 2026-10-08. A comment marks facts from a single model card or a secondary source.
"""

from datetime import date

from app.domain.catalogue.model import Model, Prices
from app.domain.catalogue.pixels import GEMINI_2_5, GEMINI_3
from app.domain.generation import Role

_TEN = ("1:1", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "9:16", "16:9", "21:9")
_FOURTEEN = (*_TEN, "1:4", "4:1", "1:8", "8:1")
_SEARCH_QUERY = 0.014  # $14 per 1,000 queries


def _pixels(ratios: tuple[str, ...], sizes: tuple[str, ...]) -> dict[str, dict[str, tuple[int, int]]]:
    return {ratio: {size: GEMINI_3[ratio][size] for size in sizes} for ratio in ratios}


PRO = Model(
    id="gemini-3-pro-image",
    name="Nano Banana Pro",
    released=date(2026, 5, 28),
    lifecycle="No shutdown date; on Vertex not before 2027-05-28.",
    aspect_ratios=_TEN,
    image_sizes=("1K", "2K", "4K"),
    pixels=_pixels(_TEN, ("1K", "2K", "4K")),
    output_type="image/jpeg",
    max_references=14,
    references_by_role={Role.OBJECT: 6, Role.CHARACTER: 5, Role.STYLE: 3},
    google_search=True,
    thinking="fixed",
    include_thoughts=True,
    input_tokens=65_536,
    output_tokens=32_768,
    prices=Prices(image_output=120, text_output=12, input=2, search_query=_SEARCH_QUERY),
    image_tokens={"1K": 1120, "2K": 1120, "4K": 2000},
)

NANO_BANANA_2_1 = Model(
    id="gemini-nano-banana-2.1",
    name="Nano Banana 2.1",
    released=date(2026, 10, 6),
    aspect_ratios=_FOURTEEN,
    vertex_aspect_ratios=("9:21",),
    image_sizes=("1K", "2K", "4K"),
    pixels=_pixels(_FOURTEEN, ("1K", "2K", "4K")),
    output_type="image/jpeg",
    max_references=14,
    references_by_role={Role.OBJECT: 10, Role.CHARACTER: 4},
    google_search=True,
    image_search=True,
    thinking="levels",
    thinking_levels=("minimal", "medium", "high"),
    thinking_default="medium",
    include_thoughts=True,
    input_tokens=131_072,
    output_tokens=32_768,
    prices=Prices(image_output=30, text_output=7.5, input=1.5, search_query=_SEARCH_QUERY),
    # 4K: the launch note, and measured usage of October 2026. Earlier price lists say 2,520.
    image_tokens={"1K": 1120, "2K": 1680, "4K": 3780},
)

FLASH = Model(
    id="gemini-3.1-flash-image",
    name="Nano Banana 2",
    status="deprecated",
    released=date(2026, 5, 28),
    replacement="gemini-nano-banana-2.1",
    lifecycle="Deprecated on 2026-10-06; shutdown was first announced for 2026-10-29, then left open. "
    "On Vertex not before 2027-05-28.",
    aspect_ratios=_FOURTEEN,
    vertex_aspect_ratios=("9:21",),
    image_sizes=("512", "1K", "2K", "4K"),
    pixels=_pixels(_FOURTEEN, ("512", "1K", "2K", "4K")),
    output_type="image/jpeg",
    max_references=14,
    references_by_role={Role.OBJECT: 10, Role.CHARACTER: 4},
    google_search=True,
    image_search=True,
    thinking="levels",
    thinking_levels=("minimal", "high"),
    thinking_default="minimal",
    include_thoughts=True,
    input_tokens=131_072,
    output_tokens=32_768,
    prices=Prices(image_output=60, text_output=3, input=0.5, search_query=_SEARCH_QUERY),
    image_tokens={"512": 747, "1K": 1120, "2K": 1680, "4K": 2520},
)

FLASH_LITE = Model(
    id="gemini-3.1-flash-lite-image",
    name="Nano Banana 2 Lite",
    released=date(2026, 6, 30),
    aspect_ratios=_FOURTEEN,
    image_sizes=("1K",),
    pixels=_pixels(_FOURTEEN, ("1K",)),
    output_type="image/jpeg",
    max_references=14,
    thinking="levels",
    thinking_levels=("minimal", "high"),
    thinking_default="minimal",
    include_thoughts=True,
    input_tokens=65_536,
    output_tokens=4_096,
    # Text and input: secondary sources of October 2026.
    prices=Prices(image_output=30, text_output=1.5, input=0.25),
    image_tokens={"1K": 1120},
)

FLASH_2_5 = Model(
    id="gemini-2.5-flash-image",
    name="Nano Banana",
    status="deprecated",
    released=date(2025, 10, 2),
    retires=date(2026, 10, 2),
    replacement="gemini-nano-banana-2.1",
    lifecycle="Earliest shutdown on the Developer API 2026-10-02, on Vertex 2027-03-15 (the latter second-hand).",
    aspect_ratios=_TEN,
    image_sizes=("1K",),
    sends_image_size=False,
    pixels=GEMINI_2_5,
    output_type="image/png",
    max_references=3,
    input_tokens=65_536,
    output_tokens=32_768,
    prices=Prices(image_output=30, text_output=2.5, input=0.3),
    image_tokens={"1K": 1290},
)

MODELS = (PRO, NANO_BANANA_2_1, FLASH, FLASH_LITE, FLASH_2_5)
