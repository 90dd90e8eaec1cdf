"""Content negotiation: which response formats the caller accepts, by the header `Accept`, before Gemini is asked."""

from dataclasses import dataclass
from typing import Annotated

import mimeparse
from fastapi import Depends, Header, Request

from app.domain.errors import NotAcceptable
from app.lib.imagefile import MIME_TYPES

JSON = "application/json"
EVENTS = "text/event-stream"


@dataclass(frozen=True, slots=True)
class AcceptedFormats:
    image_types: tuple[str, ...]
    """Image types that the caller prefers to JSON."""
    json: bool
    """True if the caller accepts JSON."""
    events: bool = False
    """True if the caller prefers a stream of events to JSON and images."""
    with_url: bool = True
    """True if JSON has each image as a data URL too, beside its base64."""

    @property
    def required_image_types(self) -> tuple[str, ...]:
        """The only types that the image may have; empty if any type can be sent, inside JSON."""
        return () if self.json else self.image_types


async def negotiate(
    request: Request,
    _accept: Annotated[
        str | None,
        Header(
            alias="accept",
            description="`application/json` (default); `image/*`, `image/jpeg` … for the image's own bytes; "
            "`text/event-stream` for events during the generation.",
        ),
    ] = None,
) -> AcceptedFormats:
    """Read the header. If it is missing or invalid, the response is JSON.

    Raises:
        NotAcceptable: the caller accepts no JSON, no image and no events.
    """
    accept = ",".join(request.headers.getlist("accept")).lower()
    if not accept.strip():
        return AcceptedFormats((), json=True)
    try:
        ranges = [mimeparse.parse_media_range(part) for part in accept.split(",") if part.strip()]
    except mimeparse.MimeTypeParseException:
        return AcceptedFormats((), json=True)
    if not ranges:
        return AcceptedFormats((), json=True)
    json_quality = mimeparse.quality_parsed(JSON, ranges)
    if mimeparse.quality_parsed(EVENTS, ranges) > json_quality:
        return AcceptedFormats((), json=True, events=True)
    better = tuple(type_ for type_ in MIME_TYPES if mimeparse.quality_parsed(type_, ranges) > json_quality)
    if not better and not json_quality:
        raise NotAcceptable(
            "The response is JSON, an image, or a stream of events.", possible=(JSON, "image/*", EVENTS)
        )
    return AcceptedFormats(better, json=json_quality > 0)


FormatsDep = Annotated[AcceptedFormats, Depends(negotiate)]
