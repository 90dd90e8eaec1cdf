"""Gemini's response as JSON: the fields that this service uses.

The SDK's types are not used for responses, for two reasons. They drop unknown fields, among them one of the two
spellings that Google documents for the sources of an image search. They also decode every image and thought signature.
So the SDK returns the raw body; it still provides URL, credentials, request and errors.

Usage and grounding are parsed leniently: if Google changes them, a paid image is not lost.
"""

import json
import re
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, TypeVar, cast

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic.alias_generators import to_camel

from app.domain.errors import UpstreamInvalidResponse

T = TypeVar("T")

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def well_formed(value: Any) -> Any:
    """Return parsed JSON with U+FFFD in the place of each lone surrogate, in strings and keys.

    All text from Google passes through this function or through Pydantic's JSON parser, which rejects lone surrogates.
    So code that writes text can rely on valid Unicode.
    """
    if isinstance(value, str):
        return _LONE_SURROGATE.sub("\ufffd", value)
    if isinstance(value, dict):
        return {well_formed(key): well_formed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [well_formed(item) for item in value]
    return value


def _or_none(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    try:
        return handler(value)
    except ValidationError:
        return None


Lenient = Annotated[T | None, WrapValidator(_or_none)]
"""`None` for a value that does not fit the type."""
Count = Annotated[int, Field(ge=0, le=10**12)]
Name = Annotated[str, Field(max_length=200)]
Items = Annotated[list[T], Field(max_length=1000)]
"""A list of at most 1,000 items; each takes some microseconds to parse. Known responses have some dozens."""


class _Wire(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel, validate_by_name=True, validate_by_alias=True, hide_input_in_errors=True
    )


class Blob(_Wire):
    model_config = ConfigDict(extra="allow")

    data: str | None = None


class Part(_Wire):
    """A part of the content. Unknown fields are kept, because a chat sends the part back to Gemini unchanged."""

    model_config = ConfigDict(extra="allow")

    text: Lenient[str] = None
    thought: Lenient[bool] = None
    inline_data: Blob | None = None
    thought_signature: Lenient[str] = None

    @property
    def is_image(self) -> bool:
        return bool(self.inline_data and self.inline_data.data)


class Content(_Wire):
    parts: Items[Lenient[Part]] | None = None


class WebChunk(_Wire):
    uri: str | None = None
    title: str | None = None


class ImageChunk(_Wire):
    """Google's guide names the fields `uri` and `image_uri`, the SDK `sourceUri` and `imageUri`."""

    source_uri: str | None = Field(None, validation_alias=AliasChoices("sourceUri", "source_uri", "uri"))
    image_uri: str | None = None
    title: str | None = None
    domain: str | None = None


class Chunk(_Wire):
    web: WebChunk | None = None
    image: ImageChunk | None = None


class Segment(_Wire):
    text: str | None = None
    start_index: int | None = None
    end_index: int | None = None


class Support(_Wire):
    segment: Segment | None = None
    grounding_chunk_indices: Items[int] | None = None


class SearchEntryPoint(_Wire):
    rendered_content: str | None = None


class GroundingMetadata(_Wire):
    web_search_queries: Lenient[Items[str]] = None
    image_search_queries: Lenient[Items[str]] = None
    search_entry_point: Lenient[SearchEntryPoint] = None
    grounding_chunks: Lenient[Items[Lenient[Chunk]]] = None
    grounding_supports: Lenient[Items[Lenient[Support]]] = None


class Candidate(_Wire):
    index: Lenient[int] = None
    content: Content | None = None
    finish_reason: Lenient[Name] = None
    finish_message: Lenient[str] = None
    grounding_metadata: Lenient[GroundingMetadata] = None

    @property
    def parts(self) -> list[Part]:
        return [part for part in (self.content.parts if self.content else None) or [] if part]

    @property
    def images(self) -> list[Part]:
        return [part for part in self.parts if part.is_image]

    @property
    def has_final_image(self) -> bool:
        """Whether there is an image that is not a thought."""
        return any(not part.thought for part in self.images)


class PromptFeedback(_Wire):
    block_reason: Name | None = None
    block_reason_message: Lenient[str] = None


class ModalityTokens(_Wire):
    modality: Name | None = None
    token_count: Lenient[Count] = None


class UsageMetadata(_Wire):
    prompt_token_count: Lenient[Count] = None
    candidates_token_count: Lenient[Count] = None
    thoughts_token_count: Lenient[Count] = None
    tool_use_prompt_token_count: Lenient[Count] = None
    total_token_count: Lenient[Count] = None
    prompt_tokens_details: Lenient[Items[ModalityTokens]] = None
    candidates_tokens_details: Lenient[Items[ModalityTokens]] = None


class ModelStatus(_Wire):
    message: str | None = None
    retirement_time: str | None = None


class GenerateContentResponse(_Wire):
    error: Any = None
    """An error inside a response with status 200. Google does not send it, but gateways do."""
    candidates: Items[Candidate] | None = None
    prompt_feedback: PromptFeedback | None = None
    usage_metadata: Lenient[UsageMetadata] = None
    model_version: Lenient[Name] = None
    model_status: Lenient[ModelStatus] = None

    @property
    def has_finish_reason(self) -> bool:
        return any(candidate.finish_reason for candidate in self.candidates or [])

    @property
    def has_image(self) -> bool:
        return any(candidate.has_final_image for candidate in self.candidates or [])


def parse(body: str) -> GenerateContentResponse:
    """Parse the JSON of a response, or of one chunk of a stream.

    Raises:
        UpstreamInvalidResponse: the body is not a response.
    """
    body = body.removeprefix("\ufeff")
    try:
        return GenerateContentResponse.model_validate_json(body)
    except ValidationError as error:
        errors = error.errors(include_input=False)
    try:
        if errors[0]["type"] != "json_invalid":
            raise ValueError("not a response")
        # Pydantic rejects JSON with a lone surrogate; a paid image must not be lost for that.
        return GenerateContentResponse.model_validate(well_formed(json.loads(body)))
    except (ValueError, RecursionError) as error:
        cause = "; ".join(f"{'.'.join(map(str, e['loc']))} {e['type']}" for e in errors[:5])
        raise UpstreamInvalidResponse("Gemini sent an invalid response.", cause=cause) from error


def merge_chunks(chunks: Sequence[GenerateContentResponse]) -> GenerateContentResponse:
    """Return the chunks of a stream as one response.

    Finish reason, sources and usage can come in any chunk, or in several: the last value counts.
    """
    candidates = [one for one in map(_first_candidate, chunks) if one]
    parts = [part for one in candidates for part in one.parts]
    candidate = Candidate(
        content=Content(parts=parts),
        finish_reason=_last(one.finish_reason for one in candidates),
        finish_message=_last(one.finish_message for one in candidates),
        grounding_metadata=_merged(GroundingMetadata, [one.grounding_metadata for one in candidates]),
    )
    return GenerateContentResponse(
        error=_last(chunk.error for chunk in chunks),
        candidates=[candidate] if candidates else None,
        prompt_feedback=_merged(PromptFeedback, [chunk.prompt_feedback for chunk in chunks]),
        usage_metadata=_merged(UsageMetadata, [chunk.usage_metadata for chunk in chunks]),
        model_version=_last(chunk.model_version for chunk in chunks),
        model_status=_merged(ModelStatus, [chunk.model_status for chunk in chunks]),
    )


def _first_candidate(chunk: GenerateContentResponse) -> Candidate | None:
    return next((one for one in chunk.candidates or [] if not one.index), None)


W = TypeVar("W", bound=_Wire)


def _merged(type_: type[W], found: Sequence[W | None]) -> W | None:
    """Return an object with the last value of each field that is not empty."""
    merged = [one for one in found if one is not None]
    if not merged:
        return None
    fields = {name: _last(getattr(one, name) or None for one in merged) for name in type_.model_fields}
    return cast("W", type_.model_construct(**fields))


def _last(values: Iterable[T | None]) -> T | None:
    found = None
    for value in values:
        found = found if value is None else value
    return found
