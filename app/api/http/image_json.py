"""JSON documents with images as base64.

Base64 does not pass through the JSON encoder: the document is encoded with short placeholders, and sent in segments
with base64 in place of the placeholders.
"""

import json
import re
from typing import Any

from app.api.http.streaming import Segment
from app.domain.generation import Image
from app.lib.base64_json import Base64Encoded, Placeholders


class ImagePlaceholders:
    """Placeholders for the base64 of images in one JSON document."""

    def __init__(self) -> None:
        self._placeholders = Placeholders()
        self._images: dict[bytes, Base64Encoded] = {}

    def add(self, image: Image) -> str:
        """Return the placeholder of an image. It may occur several times in the document."""
        placeholder = self._placeholders.next()
        self._images[placeholder.encode()] = Base64Encoded(image.content)
        return placeholder

    def fill(self, document: dict[str, Any]) -> list[Segment]:
        """Return the encoded document with base64 in place of each placeholder."""
        text = json.dumps(document, separators=(",", ":")).encode()
        prefix = self._placeholders.prefix.encode()
        pieces = re.split(rb"(%s[0-9a-f]{%d})" % (prefix, Placeholders.LENGTH - len(prefix)), text)
        return [self._images.get(piece, piece) for piece in pieces]
