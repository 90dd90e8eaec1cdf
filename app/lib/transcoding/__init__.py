"""Convert image files to another type, quality or width with libvips, in threads of low priority.

libvips decodes and encodes in strips where the file type allows it, does not hold Python's GIL while it works, and
stops within milliseconds, for WebP within half a second. See docs/decisions/0006-images-are-converted-by-libvips.md.
"""

from app.lib.transcoding.conversion import (
    MIME_TYPES,
    Conversion,
    ConversionFailed,
    Converted,
    Target,
    TooManyPixels,
    estimate_bytes,
)
from app.lib.transcoding.threads import ConversionThreads

__all__ = [
    "MIME_TYPES",
    "Conversion",
    "ConversionFailed",
    "ConversionThreads",
    "Converted",
    "Target",
    "TooManyPixels",
    "estimate_bytes",
]
