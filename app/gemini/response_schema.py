"""Gemini's answer as it comes over the wire: the fields we use, read by us.

The SDK's own types drop what they do not know, and one of the two spellings in which Google documents the sources of an
image search is among it; they also decode every image and every thought signature. So the SDK is asked for the body as
it is, and keeps URL, credentials, request and errors. What surrounds a paid image (usage, grounding) is read leniently:
if Google changes it, the image still arrives.
"""

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

T = TypeVar("T")

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def well_formed(value: Any) -> Any:
    """Parsed JSON of Google's with U+FFFD for each half of a surrogate pair, in its strings and keys.

    Every text of Google's comes in through here or through Pydantic's JSON parser, which refuses such halves: no code
    that writes a text has to expect one.
    """
    if isinstance(value, str):
        return _LONE_SURROGATE.sub("\ufffd", value)
    if isinstance(value, dict):
        return {well_formed(key): well_formed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [well_formed(item) for item in value]
    return value


def _or_nothing(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    try:
        return handler(value)
    except ValidationError:
        return None


Lenient = Annotated[T | None, WrapValidator(_or_nothing)]
Count = Annotated[int, Field(ge=0, le=10**12)]
Name = Annotated[str, Field(max_length=200)]
Several = Annotated[list[T], Field(max_length=1000)]
"""Reading takes some microseconds for each. No answer has been seen with more than some dozens of anything."""


class _Wire(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel, validate_by_name=True, validate_by_alias=True, hide_input_in_errors=True
    )


class Blob(_Wire):
    model_config = ConfigDict(extra="allow")

    data: str | None = None


class Part(_Wire):
    """Whatever else it says is kept: within a chat it goes back to Gemini as it came."""

    model_config = ConfigDict(extra="allow")

    text: Lenient[str] = None
    thought: Lenient[bool] = None
    inline_data: Blob | None = None
    thought_signature: Lenient[str] = None


class Content(_Wire):
    parts: Several[Lenient[Part]] | None = None


class WebChunk(_Wire):
    uri: str | None = None
    title: str | None = None


class ImageChunk(_Wire):
    """The guide says `uri` and `image_uri`, the SDK `sourceUri` and `imageUri`."""

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
    grounding_chunk_indices: Several[int] | None = None


class SearchEntryPoint(_Wire):
    rendered_content: str | None = None


class GroundingMetadata(_Wire):
    web_search_queries: Lenient[Several[str]] = None
    image_search_queries: Lenient[Several[str]] = None
    search_entry_point: Lenient[SearchEntryPoint] = None
    grounding_chunks: Lenient[Several[Lenient[Chunk]]] = None
    grounding_supports: Lenient[Several[Lenient[Support]]] = None


class Candidate(_Wire):
    index: Lenient[int] = None
    content: Content | None = None
    finish_reason: Lenient[Name] = None
    finish_message: Lenient[str] = None
    grounding_metadata: Lenient[GroundingMetadata] = None


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
    candidates_tokens_details: Lenient[Several[ModalityTokens]] = None


class ModelStatus(_Wire):
    message: str | None = None
    retirement_time: str | None = None


class GenerateContentResponse(_Wire):
    error: Any = None
    """An error in the body of a 200 is none of Google's habits, but gateways have it."""
    candidates: Several[Candidate] | None = None
    prompt_feedback: PromptFeedback | None = None
    usage_metadata: Lenient[UsageMetadata] = None
    model_version: Lenient[Name] = None
    model_status: Lenient[ModelStatus] = None


def merge_chunks(chunks: Sequence[GenerateContentResponse]) -> GenerateContentResponse:
    """The chunks of a stream as one answer. Reason, sources and usage come in whichever of them, or in several."""
    candidates = [one for one in map(_first, chunks) if one]
    parts = [part for one in candidates if one.content for part in one.content.parts or []]
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


def _first(chunk: GenerateContentResponse) -> Candidate | None:
    return next((one for one in chunk.candidates or [] if not one.index), None)


W = TypeVar("W", bound=_Wire)


def _merged(type_: type[W], found: Sequence[W | None]) -> W | None:
    """Each field as it was last said; an empty one says nothing."""
    merged = [one for one in found if one is not None]
    if not merged:
        return None
    fields = {name: _last(getattr(one, name) or None for one in merged) for name in type_.model_fields}
    return cast("W", type_.model_construct(**fields))


def _last(values: Iterable[T | None]) -> T | None:
    found = None
    for value in values:
        found = value if value is not None else found
    return found
