"""What kind of answer a caller can take, by its `Accept` header, known before any money is spent."""

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
    """`image_types` are those that the caller likes better than JSON; `json` says whether JSON would do as well."""

    image_types: tuple[str, ...]
    json: bool
    events: bool = False
    """Whether the caller likes a stream of events better than either."""
    with_url: bool = True
    """Whether JSON holds each image as a data URL besides its base64."""

    @property
    def required_image_types(self) -> tuple[str, ...]:
        return () if self.json else self.image_types


async def negotiate(
    request: Request,
    _accept: Annotated[
        str | None,
        Header(
            alias="accept",
            description="`application/json` (default); `image/*`, `image/jpeg` … for the image's own bytes; "
            "`text/event-stream` for events on the way.",
        ),
    ] = None,
) -> AcceptedFormats:
    """Read the header. Without one, or with one that is no such header, the answer is JSON.

    Raises:
        NotAcceptable: neither JSON nor an image will do.
    """
    accept = ",".join(request.headers.getlist("accept")).lower()  # types are the same in either case
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
        raise NotAcceptable("The answer is JSON, an image, or a stream of events.", possible=(JSON, "image/*", EVENTS))
    return AcceptedFormats(better, json=json_quality > 0)


AnswerWanted = Annotated[AcceptedFormats, Depends(negotiate)]
