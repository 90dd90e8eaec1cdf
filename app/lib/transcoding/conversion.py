"""One conversion: decode a file, perhaps make it smaller, and encode it. Runs in any thread; another one may stop it.

Profile (ICC), EXIF and XMP are kept, and nothing is rotated or changed in colour. Other data, such as C2PA, is lost.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyvips

from app.lib.base64_json.content import PIECE_BYTES
from app.lib.imagefile import ImageHeader

MIME_TYPES = ("image/png", "image/jpeg", "image/webp")
"""The types that can be read and written."""

_LOADERS: dict[str, Callable[..., pyvips.Image]] = {
    "image/png": pyvips.Image.pngload_buffer,
    "image/jpeg": pyvips.Image.jpegload_buffer,
    "image/webp": pyvips.Image.webpload_buffer,
}
_ANY_HEIGHT = 10_000_000
"""libvips' largest size. Only the width limits a smaller copy."""

_PAETH = 0x80

_BASE_BYTES = 12 * 1024 * 1024
"""What each conversion takes besides its pixels: strips, compressor state and buffers."""

_OUTPUT_BYTES_PER_PIXEL = {"image/png": 4.0, "image/jpeg": 1.5, "image/webp": 7.0}
"""The encoded file at its largest, and for WebP the whole picture, which its encoder needs at once."""

_WHOLE_PICTURE_BYTES_PER_PIXEL = {"image/png": 4.0, "image/jpeg": 6.0, "image/webp": 4.0}
"""A file that is not coded from top to bottom: an interlaced PNG, a progressive JPEG (coefficients), any WebP."""

logging.getLogger("pyvips").setLevel(logging.WARNING)  # it logs each call
pyvips.block_untrusted_set(True)  # only the well-tested decoders are reachable
pyvips.cache_set_max(0)  # libvips would keep finished pictures
# Each conversion has a thread already. (The stubs do not have this function.)
pyvips.concurrency_set(1)  # type: ignore[attr-defined]


class ConversionFailed(Exception):
    """The file cannot be decoded, or not be written as the wanted type. The text has no data of the file."""


class TooManyPixels(ConversionFailed):
    """The file claims more pixels than allowed. It has not been decoded."""


class Stopped(Exception):
    """`Conversion.stop` was called."""


@dataclass(frozen=True, slots=True)
class Target:
    """What to convert to."""

    mime_type: str
    quality: int = 90
    """1 to 100, for JPEG and WebP."""
    width: int | None = None
    """Width in pixels that the copy has at most; `None` keeps the size."""


@dataclass(frozen=True, slots=True)
class Converted:
    """A converted file. The length of each piece except the last is a multiple of three."""

    pieces: tuple[bytes, ...]
    width: int
    height: int


def estimate_bytes(header: ImageHeader, size: int, *, top_down: bool, target: Target) -> int:
    """Return how much memory a conversion takes at most for usual pictures, result included.

    Args:
        header: of the file.
        size: of the file in bytes.
        top_down: whether the file is coded from top to bottom, so that it is decoded in strips.
        target: what to convert to.
    """
    scale = min(1.0, target.width / header.width) ** 2 if target.width else 1.0
    decoded = 0.0 if top_down else _WHOLE_PICTURE_BYTES_PER_PIXEL[header.mime_type]
    if header.mime_type == "image/webp":
        decoded *= min(1.0, 4 * scale)  # it is decoded at twice the width that is wanted
    return _BASE_BYTES + size + int(header.pixels * (decoded + scale * _OUTPUT_BYTES_PER_PIXEL[target.mime_type]))


class Conversion:
    def __init__(self, pieces: Sequence[bytes], mime_type: str, target: Target, max_pixels: int) -> None:
        """
        Args:
            pieces: the file.
            mime_type: its type, one of `MIME_TYPES`.
            target: what to convert to.
            max_pixels: a file with more pixels is refused before it is decoded.
        """
        self._pieces = pieces
        self._mime_type = mime_type
        self._target = target
        self._max_pixels = max_pixels
        self._image: pyvips.Image | None = None
        self._stopped = False
        self._written: list[bytes] = []
        self._rest = bytearray()

    def run(self) -> Converted:
        """Convert the file.

        Raises:
            TooManyPixels, ConversionFailed: as these classes say.
            Stopped: `stop` was called.
        """
        if self._stopped:
            raise Stopped
        data = b"".join(self._pieces)
        self._pieces = ()
        try:
            image = self._open(data)
            image.set_progress(True)  # the encoder looks at the kill flag only of an image that reports progress
            self._image = image
            if self._stopped:
                raise Stopped
            target = pyvips.TargetCustom()
            target.on_write(self._write)
            _save(image, target, self._target)
        except pyvips.Error as error:
            if self._stopped:
                raise Stopped from None
            raise ConversionFailed(_reason(error)) from None
        return Converted((*self._written, bytes(self._rest)), image.width, image.height)

    def stop(self) -> None:
        """Make `run` end soon, from another thread."""
        self._stopped = True
        if self._image is not None:
            self._image.set_kill(True)

    def _open(self, data: bytes) -> pyvips.Image:
        image = _LOADERS[self._mime_type](data, access="sequential", fail_on="error")
        if image.width * image.height > self._max_pixels:
            raise TooManyPixels(f"it has {image.width}×{image.height} pixels")
        width = self._target.width
        if width is None or width >= image.width:
            return image
        # Not `thumbnail_buffer`: it ignores `fail_on`, and would make a copy of a file that is cut off.
        options = _shrink_on_load(self._mime_type, image.width / width)
        image = _LOADERS[self._mime_type](data, access="sequential", fail_on="error", **options)
        smaller: pyvips.Image = image.thumbnail_image(width, height=_ANY_HEIGHT, size="down", no_rotate=True)
        return smaller

    def _write(self, piece: bytes | bytearray | memoryview) -> int:
        if self._stopped:
            return -1
        self._rest += piece
        while len(self._rest) > PIECE_BYTES:
            self._written.append(bytes(self._rest[:PIECE_BYTES]))
            del self._rest[:PIECE_BYTES]
        return len(piece)


def _shrink_on_load(mime_type: str, ratio: float) -> dict[str, float]:
    """Return options of the loader that make it decode fewer pixels: at least twice the width that is wanted."""
    if mime_type == "image/jpeg":
        return {"shrink": next((one for one in (8, 4, 2) if ratio >= 2 * one), 1)}
    if mime_type == "image/webp":
        return {"scale": min(1.0, 2 / ratio)}
    return {}


def _save(image: pyvips.Image, to: pyvips.TargetCustom, target: Target) -> None:
    match target.mime_type:
        case "image/png":
            image.pngsave_target(to, compression=3, filter=_PAETH)  # three times as fast as all filters at level 6
        case "image/jpeg":
            image.jpegsave_target(to, Q=target.quality, background=[255])  # white behind what is transparent
        case _:
            image.webpsave_target(to, Q=target.quality, effort=2)


def _reason(error: Any) -> str:
    """Return libvips' last line about an error."""
    lines = [line.strip() for line in str(error.detail).splitlines() if line.strip()]
    return lines[-1][:200] if lines else "it cannot be decoded"
