"""Names of models other than their ids: marketing names, and ids that Google has retired.

Sources: Google's deprecations page and changelog; for Imagen, Firebase's migration table.
"""

from dataclasses import dataclass
from datetime import date


@dataclass(frozen=True, slots=True)
class Alias:
    name: str
    target: str
    retired: date | None = None

    def warning(self) -> str:
        if self.retired:
            return f"{self.name} was shut down on {self.retired}; {self.target} answered instead."
        return f"{self.name} is another name for {self.target}."


_JUNE = date(2026, 6, 25)
_AUGUST = date(2026, 8, 17)

ALIASES = (
    Alias("nano-banana-pro", "gemini-3-pro-image"),
    Alias("nano-banana-pro-preview", "gemini-3-pro-image"),
    Alias("gemini-3-pro-image-preview", "gemini-3-pro-image", _JUNE),
    Alias("nano-banana-2.1", "gemini-nano-banana-2.1"),
    Alias("nano-banana-2", "gemini-3.1-flash-image"),
    Alias("gemini-3.1-flash-image-preview", "gemini-3.1-flash-image", _JUNE),
    Alias("nano-banana-2-lite", "gemini-3.1-flash-lite-image"),
    Alias("nano-banana-lite", "gemini-3.1-flash-lite-image"),
    Alias("nano-banana", "gemini-2.5-flash-image"),
    Alias("gemini-2.5-flash-image-preview", "gemini-2.5-flash-image", date(2026, 1, 15)),
    Alias("gemini-2.0-flash-preview-image-generation", "gemini-2.5-flash-image", date(2025, 11, 14)),
    Alias("imagen-4.0-fast-generate-001", "gemini-nano-banana-2.1", _AUGUST),
    Alias("imagen-4.0-generate-001", "gemini-nano-banana-2.1", _AUGUST),
    Alias("imagen-4.0-ultra-generate-001", "gemini-3-pro-image", _AUGUST),
)
