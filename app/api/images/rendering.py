"""A `Generation` as an HTTP answer: JSON with the image as base64 in it, or the image's own bytes.

The base64 does not go through a JSON encoder: the document is encoded with short marks in it, and sent in pieces with
the base64 in their place.
"""

import json
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from fastapi import Response
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel
from starlette.types import Receive, Scope, Send

from app.api.http.negotiation import Wanted
from app.api.http.response_writer import Sender, Sending
from app.domain.errors import CallerLeft, SlowReader
from app.domain.generation import Generation, Image
from app.lib.base64_json import Content, Encoded, Tokens
from app.lib.scheduler import PIECE_BYTES, Pace, work_in

MAX_HEADER_BYTES = 3_000
"""What the words of an answer may take in headers altogether; proxies in front often allow 4 KiB."""

EXTENSIONS = {
    "image/jpeg": "jpg",
    "image/png": "png",
    "image/webp": "webp",
    "image/heic": "heic",
    "image/heif": "heif",
}


class _Read(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True, from_attributes=True)


class ImageRead(_Read):
    data: str = Field(description="The file as base64.", json_schema_extra={"format": "byte"})
    mime_type: str
    url: str | None = Field(None, description="The file as a data URL; absent with `responseFormat: b64`.")
    width: int
    height: int


class UsageRead(_Read):
    prompt_tokens: int
    output_tokens: int
    thoughts_tokens: int
    total_tokens: int
    estimated_cost_usd: float | None = Field(
        description="US dollars at list price: image, text, thinking, input, search. `null` where no price is known; "
        "0 where Gemini says that it does not charge."
    )


class WebSourceRead(_Read):
    title: str
    uri: str


class ImageSourceRead(_Read):
    title: str
    source_uri: str = Field(description="The page that contains the image. Google obliges you to link to it.")
    image_uri: str
    domain: str


class SupportRead(_Read):
    text: str
    start_index: int
    end_index: int
    source_indices: list[int] = Field(description="Positions in `sources`, and after its end in `imageSources`.")


class GroundingRead(_Read):
    queries: list[str]
    sources: list[WebSourceRead]
    image_sources: list[ImageSourceRead]
    supports: list[SupportRead]
    search_suggestions_html: str | None = Field(
        description="Google obliges you to show this to whoever wrote the prompt."
    )


class GenerationRead(_Read):
    """The answer to a request for an image."""

    id: str
    image: ImageRead
    text: str | None = Field(description="What the model wrote beside the image.")
    thoughts: str | None = Field(None, description="With `includeThoughts` only.")
    drafts: list[ImageRead] | None = Field(None, description="With `includeDrafts` only.")
    model: str = Field(description="The model asked, aliases resolved.")
    model_version: str | None = Field(description="The model that Gemini says it was.")
    finish_reason: str | None
    grounding: GroundingRead | None
    usage: UsageRead
    warnings: list[str]
    chat_id: str | None = Field(None, description="Within a chat only.")
    turn: int | None = Field(None, description="Within a chat only: the number of this turn, from 1 on.")


EXAMPLE: dict[str, Any] = {
    "id": "gen_5a4c1f0e7b6d4a9f8f0c2f1c3b7a9e12",
    "image": {
        "data": "/9j/4AAQSkZJRgABAQ…",
        "mimeType": "image/jpeg",
        "url": "data:image/jpeg;base64,/9j/4AAQSkZJRgABAQ…",
        "width": 2752,
        "height": 1536,
    },
    "text": "Here it is.",
    "model": "gemini-3-pro-image",
    "modelVersion": "gemini-3-pro-image",
    "finishReason": "STOP",
    "grounding": None,
    "usage": {
        "promptTokens": 12,
        "outputTokens": 1120,
        "thoughtsTokens": 200,
        "totalTokens": 1332,
        "estimatedCostUsd": 0.136824,
    },
    "warnings": [],
}

GROUNDING_EXAMPLE: dict[str, Any] = {
    "queries": ["weather in Bern today"],
    "sources": [{"title": "example.com", "uri": "https://vertexaisearch.cloud.google.com/grounding-api-redirect/…"}],
    "imageSources": [],
    "supports": [{"text": "Here it is.", "startIndex": 0, "endIndex": 11, "sourceIndices": [0]}],
    "searchSuggestionsHtml": "<style>…</style><div>…</div>",
}

EXPOSED_HEADERS = (
    "X-Request-Id", "X-Demo", "Retry-After", "Content-Disposition", "X-Generation-Id", "X-Model", "X-Model-Version",
    "X-Finish-Reason", "X-Image-Width", "X-Image-Height", "X-Usage", "X-Text", "X-Thoughts", "X-Warnings",
    "X-Grounding", "X-Omitted", "X-Upstream-Attempts", "X-Should-Retry", "X-Chat-Id", "X-Turn", "Location", "ETag",
    "Accept-Ranges", "Content-Range",
)  # fmt: skip
"""What a page on another origin may read of an answer."""


Segment = bytes | Encoded | Content


async def pieces_of(segments: Iterable[Segment], pace: Pace) -> AsyncGenerator[bytes]:
    """The segments piece by piece, never joined, each encoded when its turn comes."""
    for segment in segments:
        if isinstance(segment, bytes):
            yield segment
            continue
        left, turn = len(segment), 0
        async for piece in segment:
            # The server waits only for callers who are slow; others would have all of it sent at one go.
            if turn <= 0:
                work = work_in(left)
                await pace.turn(work)
                turn = work * PIECE_BYTES
            turn -= len(piece)
            left -= len(piece)
            yield piece


class Pieces(Response):
    """A body in segments, with its length."""

    def __init__(
        self, segments: Sequence[Segment], media_type: str, headers: Mapping[str, str], sending: Sending
    ) -> None:
        self._segments = segments
        self._sending = sending
        super().__init__(None, headers=headers, media_type=media_type)
        self.headers["Content-Length"] = str(sum(map(len, segments)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sender = Sender(scope, send, self._sending)
        try:
            await sender.start(self.status_code, self.raw_headers)
            await sender.send_all(pieces_of(self._segments, self._sending.pace), receive)
            await sender.end()
        except (CallerLeft, SlowReader) as error:
            self._sending.failed(error)


def answer(generation: Generation, wanted: Wanted, sending: Sending) -> Response:
    """The generation in the shape that the caller asked for."""
    if generation.image.mime_type in wanted.image_types:
        return _as_bytes(generation, sending)
    segments = image_document(generation, with_url=wanted.with_url)
    return Pieces(segments, "application/json", _headers(generation), sending)


def image_document(generation: Generation, *, with_url: bool) -> list[Segment]:
    """The JSON document of a generation, its images as segments of their own."""
    places = _Places(with_url=with_url)
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


def image_read(image: Image, *, with_url: bool) -> list[Segment]:
    """The JSON document of a single image."""
    places = _Places(with_url=with_url)
    return places.filled(places.read(image).model_dump(mode="json", by_alias=True, exclude_none=True))


class _Places:
    """Where images belong in a document that is encoded without them."""

    def __init__(self, *, with_url: bool) -> None:
        self._with_url = with_url
        self._tokens = Tokens()
        self._images: dict[str, Encoded] = {}

    def read(self, image: Image) -> ImageRead:
        place = self._tokens.next()
        self._images[place] = Encoded(image.content)
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


def _as_bytes(generation: Generation, sending: Sending) -> Response:
    image, words = generation.image, _words(generation)
    name = f"{generation.id}.{EXTENSIONS[image.mime_type]}"
    headers = _headers(generation) | {"Content-Disposition": f'inline; filename="{name}"'} | words
    return Pieces([image.content], image.mime_type, headers, sending)


def _headers(generation: Generation) -> dict[str, str]:
    kept = {"X-Chat-Id": generation.chat_id, "X-Turn": str(generation.turn)} if generation.chat_id else {}
    return kept | {
        "Cache-Control": "no-store",
        "Vary": "Accept",
        "X-Generation-Id": generation.id,
        "X-Upstream-Attempts": str(generation.attempts),
    }


def _words(generation: Generation) -> dict[str, str]:
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
