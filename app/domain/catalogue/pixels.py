"""Pixel sizes, width by height, by aspect ratio and image size.

Source: Google's image generation guide of 2026-09-08, confirmed for Pro by 49 live images. The sizes are nominal:
1408×768 has been measured instead of 1376×768, so a difference of a few percent is not an error.
"""

from typing import Annotated

from pydantic import Field

_Pixels = Annotated[int, Field(gt=0)]
Size = tuple[_Pixels, _Pixels]

_AT_1K: dict[str, Size] = {
    "1:1": (1024, 1024),
    "1:4": (512, 2048),
    "1:8": (384, 3072),
    "2:3": (848, 1264),
    "3:2": (1264, 848),
    "3:4": (896, 1200),
    "4:1": (2048, 512),
    "4:3": (1200, 896),
    "4:5": (928, 1152),
    "5:4": (1152, 928),
    "8:1": (3072, 384),
    "9:16": (768, 1376),
    "16:9": (1376, 768),
    "21:9": (1584, 672),
}

GEMINI_3: dict[str, dict[str, Size]] = {
    ratio: {
        "512": (width // 2, height // 2),
        "1K": (width, height),
        "2K": (2 * width, 2 * height),
        "4K": (4 * width, 4 * height),
    }
    for ratio, (width, height) in _AT_1K.items()
}
GEMINI_3["21:9"]["512"] = (792, 168)  # as in Google's table; confirmed by measurement

GEMINI_2_5: dict[str, dict[str, Size]] = {
    ratio: {"1K": size}
    for ratio, size in {
        "1:1": (1024, 1024),
        "2:3": (832, 1248),
        "3:2": (1248, 832),
        "3:4": (864, 1184),
        "4:3": (1184, 864),
        "4:5": (896, 1152),
        "5:4": (1152, 896),
        "9:16": (768, 1344),
        "16:9": (1344, 768),
        "21:9": (1536, 672),
    }.items()
}
