"""A `Generation` as an HTTP response: JSON with the image as base64, or the image's bytes."""

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import quote

from app.api.http.image_json import ImagePlaceholders
from app.api.http.negotiation import AcceptedFormats
from app.api.http.streaming import EXTENSIONS, Segment, SegmentedResponse
from app.api.images.response import (
    GenerationRead,
    GroundingRead,
    ImageRead,
    LinkedGenerationRead,
    LinkedImageRead,
    UsageRead,
)
from app.domain.errors import ServiceError
from app.domain.generation import Generation, Image
from app.domain.recorded import RecordedGeneration

MAX_HEADER_BYTES = 3_000
"""Limit for all metadata headers of a response together. Proxies often allow 4 KiB of headers."""


def render(
    generation: Generation,
    formats: AcceptedFormats,
    on_failure: Callable[[ServiceError], None],
    before_end: Callable[[], Awaitable[object]] | None = None,
) -> SegmentedResponse:
    """Return the response in the format that the caller prefers.

    Args:
        generation: the result.
        formats: what the caller accepts.
        on_failure: called with the error if the caller does not read the whole response.
        before_end: awaited before the last piece is sent.
    """
    if generation.image.mime_type in formats.image_types:
        image = generation.image
        headers = _image_headers(generation)
        return SegmentedResponse([image.content], image.mime_type, headers, on_failure, before_end)
    segments = render_json(generation, with_url=formats.with_url)
    return SegmentedResponse(segments, "application/json", _headers(generation), on_failure, before_end)


def render_json(generation: Generation, *, with_url: bool) -> list[Segment]:
    """Return the JSON document of a generation. Each image is a segment of its own."""
    images = _Images(with_url=with_url)
    drafts = [images.read(draft) for draft in generation.drafts]
    document = _document(generation, images.read(generation.image), drafts)
    for image in [document["image"], *document.get("drafts", ())]:
        if image["url"] is None:
            del image["url"]
    return images.fill(document)


def result_document(recorded: RecordedGeneration, url_of: Callable[[int], str]) -> dict[str, Any]:
    """Return the JSON document of a recorded generation that succeeded, with a link in place of the image.

    Args:
        recorded: the generation.
        url_of: returns the link to the image with this index.
    """
    return linked_document(recorded.generations[0], url_of(0))


def linked_document(generation: Generation, url: str) -> dict[str, Any]:
    """Return the JSON document of a generation with a link in place of the image."""
    image = LinkedImageRead(
        url=url,
        mime_type=generation.image.mime_type,
        width=generation.image.width,
        height=generation.image.height,
    )
    return _document(generation, image)


def _document(
    generation: Generation, image: ImageRead | LinkedImageRead, drafts: Sequence[ImageRead] = ()
) -> dict[str, Any]:
    fields = {name: getattr(generation, name) for name in GenerationRead.model_fields}
    fields |= {"image": image, "drafts": drafts or None}
    schema = GenerationRead if isinstance(image, ImageRead) else LinkedGenerationRead
    document = schema.model_validate(fields).model_dump(mode="json", by_alias=True)
    for optional in ("thoughts", "drafts", "chatId", "turn"):
        if document[optional] is None:
            del document[optional]
    return document


def render_image_json(image: Image, *, with_url: bool) -> list[Segment]:
    """Return the JSON document of a single image."""
    images = _Images(with_url=with_url)
    return images.fill(images.read(image).model_dump(mode="json", by_alias=True, exclude_none=True))


class _Images:
    """The images of one JSON document."""

    def __init__(self, *, with_url: bool) -> None:
        self._with_url = with_url
        self._placeholders = ImagePlaceholders()
        self.fill = self._placeholders.fill

    def read(self, image: Image) -> ImageRead:
        """Return an image whose base64 is a placeholder."""
        placeholder = self._placeholders.add(image)
        url = f"data:{image.mime_type};base64,{placeholder}" if self._with_url else None
        return ImageRead(data=placeholder, mime_type=image.mime_type, url=url, width=image.width, height=image.height)


def _image_headers(generation: Generation) -> dict[str, str]:
    name = f"{generation.id}.{EXTENSIONS[generation.image.mime_type]}"
    disposition = {"Content-Disposition": f'inline; filename="{name}"'}
    return _headers(generation) | disposition | _metadata_headers(generation)


def _headers(generation: Generation) -> dict[str, str]:
    chat = {"X-Chat-Id": generation.chat_id, "X-Turn": str(generation.turn)} if generation.chat_id else {}
    return chat | {
        "Cache-Control": "no-store",
        "Vary": "Accept",
        "X-Generation-Id": generation.id,
        "X-Upstream-Attempts": str(generation.attempts),
    }


def _metadata_headers(generation: Generation) -> dict[str, str]:
    """Return the metadata of a generation as headers. Text is percent-encoded UTF-8.

    Headers that do not fit into `MAX_HEADER_BYTES` are left out, and `X-Omitted` lists them.
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
    left = MAX_HEADER_BYTES
    for name, value in candidates.items():
        if value is None:
            continue
        if (needed := len(name) + len(value)) > left:
            omitted.append(name.removeprefix("X-").lower())
        else:
            left -= needed
            headers[name] = value
    return headers | ({"X-Omitted": ", ".join(omitted)} if omitted else {})


def _encoded(text: str | None) -> str | None:
    return quote(text, safe=" !#$&'()*+,/:;=?@[]~-._") if text else None


def _encoded_json(value: Any) -> str:
    return quote(json.dumps(value, separators=(",", ":"), ensure_ascii=False), safe=" !#$&'()*+,/:;=?@[]~-._{}\"")
