"""The expected result of the base64 extractor, computed with `json.loads` on the complete text."""

import base64
import binascii
import json
from collections.abc import Iterable
from typing import Any

from app.lib.base64_json import Base64Decoder, Base64Extractor

KEYS = ("data", "thoughtSignature")


class Kept(Base64Decoder):
    """A sink that stores all pieces."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        super().__init__(self.pieces.append)


class Image:
    """Replace a base64 string in a parsed document: its bytes, or `None` if it is not base64."""

    def __init__(self, content: bytes | None) -> None:
        self.content = content

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Image) and self.content == other.content

    def __repr__(self) -> str:
        return f"Image({self.content!r})"


def check(chunks: Iterable[bytes]) -> None:
    """Extract from the chunks, and compare with the result of `json.loads` for the joined chunks.

    For invalid JSON the remaining text is invalid JSON too, or the extracted base64 is invalid.
    """
    chunks = list(chunks)
    extractor = Base64Extractor(dict.fromkeys(KEYS, Kept))
    rest = b"".join(map(extractor.feed, chunks)) + extractor.close()

    expected = _parsed(b"".join(chunks), lambda text: Image(_decoded(text)))
    found = _parsed(rest, lambda text: Image(_content(extractor, text)))

    assert found == expected
    for sink in extractor.extracted.values():
        assert all(len(piece) % 3 == 0 for piece in sink.pieces[:-1])


_NOT_JSON = object()


def _parsed(text: bytes, image: Any) -> Any:
    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        return {
            key: image(value) if key in KEYS and isinstance(value, str) and value else value for key, value in found
        }

    try:
        # Not strict: JSON forbids a line break inside a string, but it does not damage an image.
        return json.loads(text.decode(errors="surrogateescape"), object_pairs_hook=pairs, strict=False)
    except (ValueError, RecursionError):
        return _NOT_JSON


def _content(extractor: Base64Extractor[Kept], text: str) -> bytes | None:
    sink = extractor.extracted.get(text)
    if sink is None:
        return _decoded(text)
    return b"".join(sink.pieces) if sink.is_valid else None


def _decoded(text: str) -> bytes | None:
    """Either alphabet, space between, padding or none."""
    standard = "".join(text.translate(str.maketrans("-_", "+/", " \t\r\n\f\v")))
    digits = standard.rstrip("=")
    if len(standard) - len(digits) > -len(digits) % 4:
        return None  # more padding than belongs there, which Python's decoder overlooks
    try:
        return base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None
