"""OpenAI's events of a stream: `….partial_image` for drafts, `….completed` for each image, or `error`.

Clients hand every other event to their user as an image, so nothing else is sent. Comments keep the connection alive.
"""

import json
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from app.api.http.event_stream import HEARTBEAT
from app.api.http.image_json import ImagePlaceholders
from app.api.http.problems import Report
from app.api.http.streaming import Segment
from app.api.images.events import encode_event
from app.api.openai.errors import error_document
from app.api.openai.parsed import ParsedImageRequest
from app.api.openai.rendering import Result, describe, first_error, grounding, usage_document, warnings
from app.domain.errors import ServiceError
from app.domain.generation import Generation, Image
from app.domain.progress import Draft, ProgressEvent


class ImageEvents:
    """Encodes the events of the images of one request."""

    def __init__(self, parsed: ParsedImageRequest, url_of: Callable[[Generation], str] | None = None) -> None:
        """
        Args:
            parsed: the request.
            url_of: returns the link that is sent in place of a complete image; `None` to send the image.
        """
        self._parsed = parsed
        self._url_of = url_of
        self._partial_images = Counter[int]()  # by the index of the image
        self._generations = 0
        self._reported = 0
        self._unreported: list[ServiceError] = []

    def opening(self) -> list[Segment]:
        return [HEARTBEAT]

    def takes_draft(self, place: int) -> bool:
        return self._partial_images[place] < self._parsed.partial_images

    def progress(self, event: ProgressEvent, place: int) -> list[Segment]:
        if not isinstance(event, Draft):
            return []
        index = self._partial_images[place]
        self._partial_images[place] += 1
        return self._event("partial_image", event.image, {"partial_image_index": index})

    def succeeded(self, generation: Generation) -> list[Segment]:
        results: list[Result] = [*self._unreported, generation]
        first_number = self._reported + 1
        self._reported += len(results)
        self._unreported.clear()
        self._generations += 1
        return self._event(
            "completed",
            generation.image,
            url=self._url_of(generation) if self._url_of else None,
            members={
                "model": generation.model,
                "usage": usage_document(results),
                "warnings": warnings(results, self._parsed, first_number),
                **({"text": generation.text} if generation.text else {}),
                **grounding(generation),
            },
        )

    def failed(self, reported: Report) -> list[Segment]:
        self._unreported.append(reported.error)
        return []

    def closing(self) -> list[Segment]:
        """Return an `error` event if there is no image. If there is one, clients would lose it with the error."""
        if not self._unreported:
            return []
        error = first_error(self._unreported)
        document = json.dumps(error_document(self._parsed.with_field_names(error))).encode()
        if not self._generations:
            return encode_event("error", [document])
        return [b": " + document + b"\n\n"]

    def _event(self, name: str, image: Image, members: dict[str, Any], url: str | None = None) -> list[Segment]:
        placeholders = ImagePlaceholders()
        type_ = f"{self._parsed.operation}.{name}"
        shown = {"url": url} if url else {"b64_json": placeholders.add(image)}
        document = {"type": type_, **shown, "created_at": int(time.time())}
        return encode_event(type_, placeholders.fill(document | describe(image) | members))
