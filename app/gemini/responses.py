"""From the body of a 200 to a `Generation`, or to the reason why there is none.

A 200 is not a success until an image is in hand: refusals, blocked prompts and answers in words alone all come as 200.
"""

import json
import re
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

from pydantic import ValidationError

from app.domain.catalogue import Model
from app.domain.errors import (
    ContentBlocked,
    GenerationRefused,
    InvalidThoughtSignature,
    NoImage,
    Recitation,
    UpstreamInvalidResponse,
    UpstreamRejectedCredentials,
)
from app.domain.generation import Generation, GenerationRequest, Image, Part, Usage
from app.domain.progress import Draft, ProgressEvent, Thought
from app.gemini import grounding, response_schema
from app.gemini.transport.exchange import ImageExchange
from app.lib.imagefile import UnreadableImage, read_content_header

_NOT_CHARGED = re.compile(r"(\bnot|n['’]t) (be |been |being )?(charged|billed)\b", re.IGNORECASE)
_BLOCKED = {
    "SAFETY", "PROHIBITED_CONTENT", "SPII", "BLOCKLIST", "IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "MODEL_ARMOR",
}  # fmt: skip
_RECITED = {"RECITATION", "IMAGE_RECITATION"}
_FINISHED = {None, "FINISH_REASON_UNSPECIFIED", "STOP", "MAX_TOKENS"}

_BASE64_IN_TEXT = re.compile(
    r"(?:data:[\w./+-]++;base64,\s*+|(?<![A-Za-z0-9+/_-]))"
    r"(?:[A-Za-z0-9+/_-]{400,}+|(?:[A-Za-z0-9+/_-]{40,}+\s++){5,}+[A-Za-z0-9+/_-]*+)={0,2}"
    r"|data:image/[\w.+-]++;base64,\S*+"
)
"""In one line or in many, with or without a data URL's beginning. (Possessive, and only from a word's beginning: no
text makes it try twice.)"""

_LETTERS_OF_BASE64 = bytes(
    120 if chr(byte) in "+/_-" or (byte < 128 and chr(byte).isalnum()) else 32 for byte in range(256)
)
_SHORTEST_LINE = b"x" * 40

_MAX_CHARACTERS_WITH_BASE64 = 256 * 1024
"""So much is looked at of a text with base64 in it, and the rest is left out."""


def to_generation(
    answer: response_schema.GenerateContentResponse, exchange: ImageExchange, request: GenerationRequest, model: Model
) -> Generation:
    """What Gemini answered to `request`.

    Args:
        answer: with tokens for the images that `exchange` has received.
        exchange: that of the call.
        request: what was asked for.
        model: the model that was asked.

    Raises:
        Refused: there is no image, with Gemini's reason, words and usage.
        UpstreamInvalidResponse: what should be the image is none.
        UpstreamRejectedCredentials: Google has limited the account.
    """
    candidate = answer.candidates[0] if answer.candidates else response_schema.Candidate()
    parts = _parts(candidate)
    pictures = [part for part in parts if part.inline_data and part.inline_data.data]
    found = grounding.read(candidate.grounding_metadata)
    usage = _usage(answer.usage_metadata, pictures, model.image_tokens.get(request.image_size or _size(model)))
    queries = grounding.billed_queries(candidate.grounding_metadata)
    if _is_free(answer, candidate):
        usage = usage.with_cost(0)
    elif usage.total_tokens:
        usage = usage.with_cost(model.cost(usage, queries))
    text = _joined(part.text for part in parts if not part.thought)
    refused = _refusal(answer, candidate, has_final=any(not part.thought for part in pictures), has_any=bool(pictures))
    if refused is not None:
        refusal, detail = refused
        raise refusal(
            detail,
            finish_reason=candidate.finish_reason,
            block_reason=answer.prompt_feedback.block_reason if answer.prompt_feedback else None,
            text=text,
            model=model.id,
            usage=usage,
        )
    final, image = _final(pictures, exchange)
    drafts = [part for part in pictures if part is not final]
    return Generation(
        id=f"gen_{uuid.uuid4().hex}",
        image=image,
        drafts=tuple(_readable(drafts, exchange)) if request.include_drafts else (),
        text=text,
        thoughts=_joined(part.text for part in parts if part.thought) if request.include_thoughts else None,
        model=model.id,
        model_version=answer.model_version,
        finish_reason=candidate.finish_reason,
        grounding=found,
        usage=usage,
        warnings=tuple(_warnings(answer, candidate, model, request, sum(not part.thought for part in drafts))),
        response_parts=_verbatim(parts, exchange) if request.chat_context is not None else (),
    )


def parse(body: str) -> response_schema.GenerateContentResponse:
    """Read the JSON of an answer, or of one chunk of it.

    Raises:
        UpstreamInvalidResponse: the body is no answer.
    """
    body = body.removeprefix("\ufeff")
    try:
        return response_schema.GenerateContentResponse.model_validate_json(body)
    except ValidationError as error:
        wrong = error.errors(include_input=False)
    try:
        if wrong[0]["type"] != "json_invalid":
            raise ValueError("another shape")
        # Pydantic refuses JSON with a lone surrogate in it; a paid image must not be lost for that.
        return response_schema.GenerateContentResponse.model_validate(response_schema.well_formed(json.loads(body)))
    except (ValueError, RecursionError) as error:
        places = "; ".join(f"{'.'.join(map(str, e['loc']))} {e['type']}" for e in wrong[:5])
        raise UpstreamInvalidResponse("Gemini sent something that is not an answer.", cause=places) from error


def _parts(candidate: response_schema.Candidate) -> list[response_schema.Part]:
    return [part for part in (candidate.content.parts if candidate.content else None) or [] if part]


def _verbatim(parts: list[response_schema.Part], exchange: ImageExchange) -> tuple[Part, ...]:
    """What a chat has to send back: every part as it came, without thoughts, which Gemini does not need, and without
    parts that carry nothing, which Gemini would refuse in the next turn."""
    kept = (_part(part, exchange) for part in parts if not part.thought)
    return tuple(part for part in kept if not part.is_empty)


def _part(part: response_schema.Part, exchange: ImageExchange) -> Part:
    fields = part.model_dump(by_alias=True, exclude_unset=True, exclude_none=True)
    data = fields.get("inlineData", {}).pop("data", "")
    signature = fields.pop("thoughtSignature", "")
    if signature == "":
        fields |= {"thoughtSignature": ""} if part.thought_signature == "" else {}
    try:
        return Part(
            fields,
            exchange.content_for(data) if data else None,
            exchange.content_for(signature) if signature else None,
        )
    except ValueError as error:
        raise UpstreamInvalidResponse("Gemini sent base64 that is none.") from error


def _final(pictures: list[response_schema.Part], exchange: ImageExchange) -> tuple[response_schema.Part, Image]:
    """The last image that is no thought, or the last of all; what turns out to be no image does not count.

    Raises:
        UpstreamInvalidResponse: none of them is an image.
    """
    first_error: UpstreamInvalidResponse | None = None
    for part in [*(p for p in reversed(pictures) if not p.thought), *(p for p in reversed(pictures) if p.thought)]:
        try:
            return part, _image(part, exchange)
        except UpstreamInvalidResponse as error:
            first_error = first_error or error
    assert first_error
    raise first_error


def is_complete(answer: response_schema.GenerateContentResponse) -> bool:
    """Whether an answer has said all it had to say, as far as one can see: why it ended, or at least an image."""
    return has_finish_reason(answer) or has_image(answer) or is_refusal(answer)


def has_finish_reason(answer: response_schema.GenerateContentResponse) -> bool:
    return any(candidate.finish_reason for candidate in answer.candidates or [])


def is_refusal(answer: response_schema.GenerateContentResponse) -> bool:
    """Whether Gemini has said why there is no image, or none to be shown."""
    reasons = {candidate.finish_reason for candidate in answer.candidates or []}
    return bool(reasons - _FINISHED or (answer.prompt_feedback and answer.prompt_feedback.block_reason))


def has_image(answer: response_schema.GenerateContentResponse) -> bool:
    """Whether the image is there that is the answer."""
    parts = [part for candidate in answer.candidates or [] for part in _parts(candidate)]
    return any(part.inline_data and part.inline_data.data and not part.thought for part in parts)


class StreamObserver:
    """A stream as it arrives: what there is to tell on the way."""

    def __init__(
        self, exchange: ImageExchange, request: GenerationRequest, tell: Callable[[ProgressEvent], None]
    ) -> None:
        self._exchange = exchange
        self._request = request
        self._tell = tell
        self._latest: response_schema.Part | None = None

    def see(self, chunk: response_schema.GenerateContentResponse) -> None:
        for candidate in chunk.candidates or []:
            for part in _parts(candidate):
                if part.thought and part.text and self._request.include_thoughts:
                    self._tell(Thought(without_base64(part.text) or ""))
                elif part.inline_data and part.inline_data.data and self._request.include_drafts:
                    self._see_picture(part)

    def _see_picture(self, part: response_schema.Part) -> None:
        """An image is a draft if it is a thought, or if another one follows."""
        draft = part if part.thought else self._latest
        if not part.thought:
            self._latest = part
        if draft is not None:
            for image in _readable([draft], self._exchange):
                self._tell(Draft(image))


def _readable(drafts: list[response_schema.Part], exchange: ImageExchange) -> Iterator[Image]:
    for draft in drafts:
        with suppress(UpstreamInvalidResponse):
            yield _image(draft, exchange)


def _refusal(
    answer: response_schema.GenerateContentResponse,
    candidate: response_schema.Candidate,
    *,
    has_final: bool,
    has_any: bool,
) -> tuple[type[GenerationRefused], str] | None:
    """Which refusal this is and the sentence for it, Gemini's own where there is one. `None` is an image in hand."""
    reason, feedback = candidate.finish_reason, answer.prompt_feedback
    said = without_base64(candidate.finish_message or (feedback.block_reason_message if feedback else None))
    if reason == "PUP_LIMITED_DISABLED":
        raise UpstreamRejectedCredentials("Google has limited this service's account.", cause=reason)
    if reason == "MISSING_THOUGHT_SIGNATURE":
        raise InvalidThoughtSignature("Gemini misses a thought signature in this chat.", cause=reason)
    if reason in _RECITED:
        return Recitation, said or f"Gemini stopped with {reason}: the image came too close to an existing work."
    if reason in _BLOCKED:
        return ContentBlocked, said or f"Gemini refused to show an image ({reason})."
    if not has_any and feedback and feedback.block_reason:
        return ContentBlocked, said or f"Gemini blocked the prompt ({feedback.block_reason})."
    if has_final or (has_any and reason in _FINISHED):
        return None
    if any(part.text for part in _parts(candidate)):
        return NoImage, said or "Gemini answered in words, without an image."
    return NoImage, said or f"Gemini sent no image ({reason or 'without a reason'})."


def _image(part: response_schema.Part, exchange: ImageExchange) -> Image:
    """Look at what a part really holds; the type that Gemini declares has been wrong."""
    assert part.inline_data and part.inline_data.data
    try:
        content = exchange.content_for(part.inline_data.data)
    except ValueError as error:
        raise UpstreamInvalidResponse("Gemini's image is not valid base64.") from error
    try:
        header = read_content_header(content)
    except UnreadableImage as error:
        raise UpstreamInvalidResponse(f"What Gemini sent as an image cannot be used: {error}.") from error
    return Image(content, header.mime_type, header.width, header.height)


def _usage(
    metadata: response_schema.UsageMetadata | None, pictures: list[response_schema.Part], tokens_each: int | None
) -> Usage:
    """What an answer used.

    Args:
        metadata: as Gemini says it.
        pictures: the images of the answer.
        tokens_each: what one of them takes, where that is known.
    """
    metadata = metadata or response_schema.UsageMetadata()
    output = metadata.candidates_token_count or 0
    prompt, thoughts = metadata.prompt_token_count or 0, metadata.thoughts_token_count or 0
    tools = metadata.tool_use_prompt_token_count or 0
    # A refusal counts its thoughts as output too.
    once = thoughts if not pictures and output == thoughts else output + thoughts
    return Usage(
        prompt_tokens=prompt,
        output_tokens=output,
        thoughts_tokens=thoughts,
        total_tokens=metadata.total_token_count or prompt + once + tools,
        image_tokens=_image_tokens(metadata, pictures, tokens_each),
        tool_tokens=tools,
    )


def _image_tokens(
    metadata: response_schema.UsageMetadata, pictures: list[response_schema.Part], tokens_each: int | None
) -> int:
    """The output tokens that drew pictures.

    Details can be absent, or list text alone. Then each picture has taken what is known of its size, or all of them
    have taken whatever is not listed as something else.
    """
    details = [d for d in metadata.candidates_tokens_details or [] if d.token_count]
    listed = sum(d.token_count or 0 for d in details if d.modality == "IMAGE")
    if listed or not pictures:
        return listed
    output, others = metadata.candidates_token_count or 0, sum(d.token_count or 0 for d in details)
    most = output - others if output > others else output
    billed = sum(not part.thought for part in pictures) or 1
    return min(most, billed * tokens_each) if tokens_each else most


def _size(model: Model) -> str:
    """The size that a model draws at if it is not told any."""
    return model.image_sizes[0] if len(model.image_sizes) == 1 else ""


def _is_free(answer: response_schema.GenerateContentResponse, candidate: response_schema.Candidate) -> bool:
    """Whether Gemini says that it does not charge for an answer, as it does with some refusals."""
    feedback = answer.prompt_feedback
    said = (candidate.finish_message, feedback.block_reason_message if feedback else None)
    return any(_NOT_CHARGED.search(one) for one in said if one)


def _warnings(
    answer: response_schema.GenerateContentResponse,
    candidate: response_schema.Candidate,
    model: Model,
    request: GenerationRequest,
    unasked: int,
) -> list[str]:
    warnings = []
    version = (answer.model_version or model.id).removeprefix("models/")
    if not version.startswith(model.id):
        warnings.append(f"Gemini answered with {version} instead of {model.id}.")
    if answer.model_status and answer.model_status.retirement_time:
        warnings.append(f"Google retires {model.id} on {answer.model_status.retirement_time[:10]}.")
    if candidate.finish_reason not in _FINISHED - {"MAX_TOKENS"}:
        warnings.append(f"Gemini finished with {candidate.finish_reason}; the image may not be what was asked for.")
    if unasked and not request.include_drafts:
        warnings.append(
            f"Gemini sent {unasked + 1} images; this is the last one. includeDrafts returns the others too."
        )
    return warnings


def _joined(texts: Iterable[str | None]) -> str | None:
    return without_base64("".join(filter(None, texts))) or None


def without_base64(text: str | None) -> str | None:
    """Words as they are; an image that a model wrote out in letters is not forwarded."""
    if not text:
        return text
    # Nearly all texts are words. To see that this way takes a hundredth of the time.
    letters = text.encode(errors="surrogatepass").translate(_LETTERS_OF_BASE64)
    if _SHORTEST_LINE not in letters and "data:image/" not in text:
        return text
    return _BASE64_IN_TEXT.sub("[base64 left out]", text[:_MAX_CHARACTERS_WITH_BASE64])
