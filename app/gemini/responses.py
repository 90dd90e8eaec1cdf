"""Convert a parsed response of Gemini to a `Generation`.

Status 200 does not mean success: refusals, blocked prompts and responses with text alone have status 200 too.
"""

import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress

from app.domain.catalogue import Model
from app.domain.errors import UpstreamInvalidResponse
from app.domain.generation import Generation, GenerationRequest, Image
from app.domain.generation import Part as StoredPart
from app.gemini import grounding
from app.gemini.refusals import EXPECTED_FINISH_REASONS, require_image
from app.gemini.response_schema import Candidate, GenerateContentResponse, Part
from app.gemini.text import join_text
from app.gemini.transport.exchange import ImageExchange
from app.gemini.usage import to_usage
from app.lib.imagefile import UnreadableImage, read_content_header


def to_generation(
    response: GenerateContentResponse, exchange: ImageExchange, request: GenerationRequest, model: Model
) -> Generation:
    """Return the generation that a response holds.

    Args:
        response: the parsed response, with placeholders for the images that `exchange` received.
        exchange: the exchange of this call.
        request: the request that was sent.
        model: the model that was called.

    Raises:
        GenerationRefused: there is no image; the error holds Gemini's reason, text and usage.
        UpstreamInvalidResponse: none of the images is a readable image file.
        UpstreamRejectedCredentials: Google has limited the account.
    """
    candidate = response.candidates[0] if response.candidates else Candidate()
    usage = to_usage(response, candidate, model, request.image_size)
    require_image(response, candidate, model.id, usage)
    final_part, image = _final_image(candidate.images, exchange)
    drafts = [part for part in candidate.images if part is not final_part]
    thoughts = (part.text for part in candidate.parts if part.thought)
    return Generation(
        id=f"gen_{uuid.uuid4().hex}",
        image=image,
        drafts=tuple(read_images(drafts, exchange)) if request.include_drafts else (),
        text=join_text(part.text for part in candidate.parts if not part.thought),
        thoughts=join_text(thoughts) if request.include_thoughts else None,
        model=model.id,
        model_version=response.model_version,
        finish_reason=candidate.finish_reason,
        grounding=grounding.to_grounding(candidate.grounding_metadata),
        usage=usage,
        warnings=tuple(_warnings(response, candidate, model, request, sum(not part.thought for part in drafts))),
        response_parts=_to_stored_parts(candidate.parts, exchange) if request.chat_context is not None else (),
    )


def _final_image(images: list[Part], exchange: ImageExchange) -> tuple[Part, Image]:
    """Return the last readable image that is not a thought; if there is none, the last readable image.

    Raises:
        UpstreamInvalidResponse: none of them is a readable image file.
    """
    first_error: UpstreamInvalidResponse | None = None
    final_first = [*(part for part in images if part.thought), *(part for part in images if not part.thought)][::-1]
    for part in final_first:
        try:
            return part, _read_image(part, exchange)
        except UpstreamInvalidResponse as error:
            first_error = first_error or error
    assert first_error
    raise first_error


def read_images(parts: Iterable[Part], exchange: ImageExchange) -> Iterator[Image]:
    """Return the images of the parts, without those that are not readable image files."""
    for part in parts:
        with suppress(UpstreamInvalidResponse):
            yield _read_image(part, exchange)


def _read_image(part: Part, exchange: ImageExchange) -> Image:
    """Read type and size from the image's bytes. The type that Gemini declares has been wrong."""
    assert part.inline_data
    assert part.inline_data.data
    try:
        content = exchange.content_for(part.inline_data.data)
    except ValueError as error:
        raise UpstreamInvalidResponse("Gemini's image is not valid base64.") from error
    try:
        header = read_content_header(content)
    except UnreadableImage as error:
        raise UpstreamInvalidResponse(f"Gemini's image cannot be used: {error}.") from error
    return Image(content, header.mime_type, header.width, header.height)


def _to_stored_parts(parts: list[Part], exchange: ImageExchange) -> tuple[StoredPart, ...]:
    """Return the parts that a chat sends back to Gemini in its next turns, unchanged.

    Thoughts are left out, because Gemini does not need them. Empty parts are left out, because Gemini rejects them.
    """
    stored = (_to_stored_part(part, exchange) for part in parts if not part.thought)
    return tuple(part for part in stored if not part.is_empty)


def _to_stored_part(part: Part, exchange: ImageExchange) -> StoredPart:
    fields = part.model_dump(by_alias=True, exclude_unset=True, exclude_none=True)
    data = fields.get("inlineData", {}).pop("data", "")
    signature = fields.pop("thoughtSignature", "")
    if part.thought_signature == "":
        fields["thoughtSignature"] = ""
    try:
        return StoredPart(
            fields,
            exchange.content_for(data) if data else None,
            exchange.content_for(signature) if signature else None,
        )
    except ValueError as error:
        raise UpstreamInvalidResponse("Gemini sent invalid base64.") from error


def _warnings(
    response: GenerateContentResponse,
    candidate: Candidate,
    model: Model,
    request: GenerationRequest,
    further_images: int,
) -> list[str]:
    warnings = []
    version = (response.model_version or model.id).removeprefix("models/")
    if not version.startswith(model.id):
        warnings.append(f"Gemini answered with {version} instead of {model.id}.")
    if response.model_status and response.model_status.retirement_time:
        warnings.append(f"Google retires {model.id} on {response.model_status.retirement_time[:10]}.")
    if candidate.finish_reason not in EXPECTED_FINISH_REASONS:
        warnings.append(f"Gemini finished with {candidate.finish_reason}. The image may differ from the request.")
    if further_images and not request.include_drafts:
        warnings.append(
            f"Gemini sent {further_images + 1} images. This is the last one; includeDrafts returns the others too."
        )
    return warnings
