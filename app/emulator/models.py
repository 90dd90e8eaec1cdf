"""The emulated models. They are written from Google's pages, independently of the service's catalogue."""

from dataclasses import dataclass

_BASE = {
    "1:1": (1024, 1024), "2:3": (848, 1264), "3:2": (1264, 848), "3:4": (896, 1200), "4:3": (1200, 896),
    "4:5": (928, 1152), "5:4": (1152, 928), "9:16": (768, 1376), "16:9": (1376, 768), "21:9": (1584, 672),
}  # fmt: skip
_LONG = {"1:4": (512, 2048), "4:1": (2048, 512), "1:8": (384, 3072), "8:1": (3072, 384)}
_OLD = {
    "1:1": (1024, 1024), "2:3": (832, 1248), "3:2": (1248, 832), "3:4": (864, 1184), "4:3": (1184, 864),
    "4:5": (896, 1152), "5:4": (1152, 896), "9:16": (768, 1344), "16:9": (1344, 768), "21:9": (1536, 672),
}  # fmt: skip
_SCALE = {"512": 0.5, "1K": 1, "2K": 2, "4K": 4}


@dataclass(frozen=True, slots=True)
class Model:
    id: str
    display_name: str
    ratios: dict[str, tuple[int, int]]
    sizes: dict[str, int]
    """Output tokens of an image, by image size."""
    thinking_levels: tuple[str, ...] | None = ()
    """Accepted levels; `None` accepts any level, and `()` means that the model does not think."""
    thinks_by_default: bool = True
    has_image_size: bool = True
    max_images: int = 14
    search: bool = False
    image_search: bool = False
    format: str = "JPEG"

    @property
    def has_signatures(self) -> bool:
        """Return whether the model sends thought signatures: only models that think do."""
        return self.thinking_levels != ()

    def pixels(self, ratio: str, size: str) -> tuple[int, int]:
        if (ratio, size) == ("21:9", "512"):
            return 792, 168
        width, height = self.ratios[ratio]
        return int(width * _SCALE[size]), int(height * _SCALE[size])


MODELS = {
    model.id: model
    for model in (
        Model(
            "gemini-3-pro-image",
            "Nano Banana Pro",
            _BASE,
            {"1K": 1120, "2K": 1120, "4K": 2000},
            thinking_levels=None,
            search=True,
        ),
        Model(
            "gemini-nano-banana-2.1",
            "Nano Banana 2.1",
            _BASE | _LONG,
            {"1K": 1120, "2K": 1680, "4K": 3780},
            thinking_levels=("MINIMAL", "MEDIUM", "HIGH"),
            search=True,
            image_search=True,
        ),
        Model(
            "gemini-3.1-flash-image",
            "Nano Banana 2",
            _BASE | _LONG,
            {"512": 747, "1K": 1120, "2K": 1680, "4K": 2520},
            thinking_levels=("MINIMAL", "HIGH"),
            thinks_by_default=False,
            search=True,
            image_search=True,
        ),
        Model(
            "gemini-3.1-flash-lite-image",
            "Nano Banana 2 Lite",
            _BASE | _LONG,
            {"1K": 1120},
            thinking_levels=("MINIMAL", "HIGH"),
            thinks_by_default=False,
        ),
        Model(
            "gemini-2.5-flash-image",
            "Nano Banana",
            _OLD,
            {"1K": 1290},
            thinks_by_default=False,
            has_image_size=False,
            max_images=3,
            format="PNG",
        ),
    )
}
