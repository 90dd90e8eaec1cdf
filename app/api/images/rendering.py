"""A `Generation` as an HTTP answer: JSON with the image as base64 in it, or the image's own bytes.

The base64 does not go through a JSON encoder: the document is encoded with short marks in it, and sent in pieces with
the base64 in their place.
"""

import json
from typing import Any
from urllib.parse import quote

from fastapi import Response

from app.api.http.negotiation import AcceptedFormats
from app.api.http.response_writer import WriteOptions
from app.api.http.streaming import EXTENSIONS, Segment, SegmentedResponse
from app.api.images.response import GenerationRead, GroundingRead, ImageRead, UsageRead
from app.domain.generation import Generation, Image
from app.lib.base64_json import Base64Encoded, Placeholders

MAX_HEADER_BYTES = 3_000
"""What the words of an answer may take in headers altogether; proxies in front often allow 4 KiB."""


EXPOSED_HEADERS = (
    "X-Request-Id", "X-Demo", "Retry-After", "Content-Disposition", "X-Generation-Id", "X-Model", "X-Model-Version",
    "X-Finish-Reason", "X-Image-Width", "X-Image-Height", "X-Usage", "X-Text", "X-Thoughts", "X-Warnings",
    "X-Grounding", "X-Omitted", "X-Upstream-Attempts", "X-Should-Retry", "X-Chat-Id", "X-Turn", "Location", "ETag",
    "Accept-Ranges", "Content-Range",
)  # fmt: skip
"""What a page on another origin may read of an answer."""


def render(generation: Generation, wanted: AcceptedFormats, options: WriteOptions) -> Response:
    """The generation in the shape that the caller asked for."""
    if generation.image.mime_type in wanted.image_types:
        return _as_bytes(generation, options)
    segments = render_json(generation, with_url=wanted.with_url)
    return SegmentedResponse(segments, "application/json", _headers(generation), options)


def render_json(generation: Generation, *, with_url: bool) -> list[Segment]:
    """The JSON document of a generation, its images as segments of their own."""
    places = _ImagePlaceholders(with_url=with_url)
    fields = {name: getattr(generation, name) for name in GenerationRead.model_fields}
    drafts = [places.read(draft) for draft in generation.drafts]
    fields |= {"image": places.read(generation.image), "drafts": drafts or None}
    document = GenerationRead.model_validate(fields).model_dump(mode="json", by_alias=True)
    for optional in ("thoughts", "drafts", "chatId", "turn"):
        if document[optional] is None:
            del document[optional]
    for image in [document["image"], *document.get("drafts", ())]:
        if image["url"] is None:
            del image["url"]
    return places.filled(document)


def render_image_json(image: Image, *, with_url: bool) -> list[Segment]:
    """The JSON document of a single image."""
    places = _ImagePlaceholders(with_url=with_url)
    return places.filled(places.read(image).model_dump(mode="json", by_alias=True, exclude_none=True))


class _ImagePlaceholders:
    """Where images belong in a document that is encoded without them."""

    def __init__(self, *, with_url: bool) -> None:
        self._with_url = with_url
        self._tokens = Placeholders()
        self._images: dict[str, Base64Encoded] = {}

    def read(self, image: Image) -> ImageRead:
        place = self._tokens.next()
        self._images[place] = Base64Encoded(image.content)
        url = f"data:{image.mime_type};base64,{place}" if self._with_url else None
        return ImageRead(data=place, mime_type=image.mime_type, url=url, width=image.width, height=image.height)

    def filled(self, document: dict[str, Any]) -> list[Segment]:
        segments: list[Segment] = []
        text = json.dumps(document, separators=(",", ":")).encode()
        places = sorted(self._images, key=lambda place: text.index(place.encode()))
        for place in places:
            for _ in range(2 if self._with_url else 1):
                before, _found, text = text.partition(place.encode())
                segments += [before, self._images[place]]
        return [*segments, text]


def _as_bytes(generation: Generation, options: WriteOptions) -> Response:
    image, words = generation.image, _metadata_headers(generation)
    name = f"{generation.id}.{EXTENSIONS[image.mime_type]}"
    headers = _headers(generation) | {"Content-Disposition": f'inline; filename="{name}"'} | words
    return SegmentedResponse([image.content], image.mime_type, headers, options)


def _headers(generation: Generation) -> dict[str, str]:
    kept = {"X-Chat-Id": generation.chat_id, "X-Turn": str(generation.turn)} if generation.chat_id else {}
    return kept | {
        "Cache-Control": "no-store",
        "Vary": "Accept",
        "X-Generation-Id": generation.id,
        "X-Upstream-Attempts": str(generation.attempts),
    }


def _metadata_headers(generation: Generation) -> dict[str, str]:
    """Everything but the pixels, as headers: plain where it is ASCII by nature, else percent-encoded UTF-8.

    What does not fit is left out, and `X-Omitted` names it.
    """
    grounding = generation.grounding and GroundingRead.model_validate(generation.grounding)
    usage = UsageRead.model_validate(generation.usage).model_dump(by_alias=True)
    candidates: dict[str, str | None] = {
        "X-Model": _encoded(generation.model),
        "X-Image-Width": str(generation.image.width),
        "X-Image-Height": str(generation.image.height),
        "X-Usage": json.dumps(usage, separators=(",", ":")),
        "X-Model-Version": _encoded(generation.model_version),
        "X-Finish-Reason": _encoded(generation.finish_reason),
        "X-Warnings": _encoded_json(list(generation.warnings)) if generation.warnings else None,
        "X-Text": _encoded(generation.text),
        "X-Thoughts": _encoded(generation.thoughts),
        "X-Grounding": _encoded_json(grounding.model_dump(by_alias=True)) if grounding else None,
    }
    headers: dict[str, str] = {}
    omitted: list[str] = ["drafts"] if generation.drafts else []
    room = MAX_HEADER_BYTES
    for name, value in candidates.items():
        if value is None:
            continue
        room -= (needed := len(name) + len(value))
        if room < 0:
            room += needed
            omitted.append(name.removeprefix("X-").lower())
        else:
            headers[name] = value
    return headers | ({"X-Omitted": ", ".join(omitted)} if omitted else {})


def _encoded(text: str | None) -> str | None:
    return quote(text, safe=" !#$&'()*+,/:;=?@[]~-._") if text else None


def _encoded_json(value: Any) -> str:
    return quote(json.dumps(value, separators=(",", ":"), ensure_ascii=False), safe=" !#$&'()*+,/:;=?@[]~-._{}\"")
