"""A `GenerationRequest`, as the SDK wants it said."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from google.genai import types
from pydantic import ValidationError
from pydantic.alias_generators import to_camel

from app.domain.catalogue import Model
from app.domain.errors import InvalidThoughtSignature
from app.domain.generation import GenerationRequest, Part, Reference, Role
from app.gemini.transport.exchange import ImageExchange

CONTENTS_IN_CONFIG = "in the config"
"""The SDK insists on contents, and spends a millisecond on every other turn of a chat to turn its own types into JSON.
So it gets them in JSON, by way of the config."""

_WIRE_NAMES = {name: to_camel(name) for name in types.Part.model_fields}

_DATA = (
    "text", "inlineData", "fileData", "functionCall", "functionResponse", "executableCode", "codeExecutionResult",
    "toolCall", "toolResponse",
)  # fmt: skip
"""What a part can hold. Gemini refuses a part without any of these, and one with an empty text alone."""

_AS_A = {
    Role.CHARACTER: "shows the character",
    Role.OBJECT: "shows the object",
    Role.STYLE: "shows the style",
}


class _Config(types.GenerateContentConfig):
    """The SDK asks for each of forty fields with `in` before it takes it, and a Pydantic model compares the name with
    all of them: 1,500 comparisons for each request. What is said not to be there the SDK takes as an attribute."""

    def __contains__(self, _: object) -> bool:
        return False


def user_parts(request: GenerationRequest) -> tuple[Part, ...]:
    """The prompt, whatever of a chat goes along within the turn, then the references, each behind a sentence that says
    what it is."""
    parts = [Part.from_text(request.prompt), *(request.chat_context.parts if request.chat_context else ())]
    for number, reference in enumerate(request.references, start=1):
        if (label := _label(number, reference)) is not None:
            parts.append(Part.from_text(label))
        parts.append(Part.from_image(reference.image))
    return tuple(parts)


def _contents(request: GenerationRequest, exchange: ImageExchange) -> list[dict[str, Any]]:
    """What the chat has, if there is one, then the user's turn, in JSON. Images and signatures go with the exchange."""
    said = [("user", user_parts(request))]
    for turn in reversed(request.chat_context.turns if request.chat_context else ()):
        said[:0] = [("user", turn.user), ("model", turn.answer)]
    contents = ({"parts": _all_written(parts, exchange), "role": role} for role, parts in said)
    return [content for content in contents if content["parts"]]


def _all_written(parts: Iterable[Part], exchange: ImageExchange) -> list[dict[str, Any]]:
    """The parts that carry something. Chats may hold others, as Gemini sent them; it refuses to take those back."""
    written = (_written(part, exchange) for part in parts)
    return [part for part in written if part is not None]


def _written(part: Part, exchange: ImageExchange) -> dict[str, Any] | None:
    """As the SDK writes it, down to the names of its fields: Google reads both spellings.

    A signature that came without data is sent with an empty text, as Gemini sends it. `None` is a part that carries
    nothing.
    """
    known = _part(part, exchange).model_dump(mode="json", exclude_none=True)
    written = {_WIRE_NAMES[name]: value for name, value in known.items()}
    if any(written.get(name) for name in _DATA):
        return written
    return {"text": ""} | written if written.get("thoughtSignature") else None


def _part(part: Part, exchange: ImageExchange) -> types.Part:
    """As the SDK knows it; what it does not know, or knows otherwise, is left out, as it does itself with what Gemini
    sends.

    Raises:
        InvalidThoughtSignature: it would not be the same without.
    """
    fields = dict(part.fields)
    if part.data is not None:
        fields["inlineData"] = {**(fields.get("inlineData") or {}), "data": exchange.placeholder_for(part.data)}
    if part.signature is not None:
        fields["thoughtSignature"] = exchange.placeholder_for(part.signature)
    while True:
        try:
            return types.Part.model_validate(fields)
        except ValidationError as error:
            wrong = error.errors(include_input=False)
        known, of_the_image = fields, False
        for one in wrong:
            fields = _without(fields, one["loc"])
            of_the_image |= one["type"] != "extra_forbidden" and one["loc"][0] in ("inlineData", "inline_data")
        if fields == known or of_the_image:
            raise InvalidThoughtSignature("A part of this chat cannot be sent back.", cause="not the SDK's part")


def _without(fields: Mapping[str, Any], location: tuple[int | str, ...]) -> dict[str, Any]:
    first, *rest = location
    kept = {key: value for key, value in fields.items() if rest or key != first}
    if rest and isinstance(inner := kept.get(str(first)), Mapping):
        kept[str(first)] = _without(inner, tuple(rest))
    return kept


def config(
    request: GenerationRequest,
    model: Model,
    exchange: ImageExchange,
    *,
    stream: bool = False,
    seconds: float | None = None,
) -> types.GenerateContentConfig:
    """Everything of a request, with only what was asked for: a knob left out is Gemini's to choose.

    Args:
        request: what was asked for.
        model: who is asked.
        exchange: what images and signatures go with.
        stream: whether the answer is to come in chunks, of which the SDK gives no raw bodies.
        seconds: how long Gemini may take, if that is less than usual.
    """
    return _Config(
        response_modalities=["TEXT", "IMAGE"],
        image_config=_image_config(request),
        tools=_tools(request),
        system_instruction=request.system_instruction,
        thinking_config=_thinking_config(request, model),
        seed=request.seed,
        safety_settings=[
            types.SafetySetting(
                category=types.HarmCategory(setting.category), threshold=types.HarmBlockThreshold(setting.threshold)
            )
            for setting in request.safety_settings
        ]
        or None,
        should_return_http_response=not stream or None,  # the body as it is; app/gemini/response_schema.py says why
        http_options=types.HttpOptions(
            timeout=math.ceil(1000 * seconds) if seconds is not None else None,
            extra_body={"contents": _contents(request, exchange)},
        ),
        # Both cost further calls that nobody asked for.
        automatic_continuation=False,
        automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
    )


def _label(number: int, reference: Reference) -> str | None:
    """The text part before an image, so that the prompt can speak of "Anna" or "the logo"."""
    if reference.role is None and reference.name is None:
        return None
    shows = _AS_A[reference.role] if reference.role else "shows"
    name = f" {reference.name}" if reference.name else " to follow"
    return f"Reference image {number} {shows}{name}:"


def _image_config(request: GenerationRequest) -> types.ImageConfig | None:
    if request.aspect_ratio is None and request.image_size is None:
        return None
    return types.ImageConfig(aspect_ratio=request.aspect_ratio, image_size=request.image_size)


def _tools(request: GenerationRequest) -> types.ToolListUnion | None:
    if request.image_search:
        kinds = types.SearchTypes(
            image_search=types.ImageSearch(), web_search=types.WebSearch() if request.google_search else None
        )
        return [types.Tool(google_search=types.GoogleSearch(search_types=kinds))]
    if request.google_search:
        return [types.Tool(google_search=types.GoogleSearch())]
    return None


def _thinking_config(request: GenerationRequest, model: Model) -> types.ThinkingConfig | None:
    # Some drafts are thoughts, and come only if these do.
    thoughts = request.include_thoughts or (request.include_drafts and (model.include_thoughts or not model.is_known))
    if request.thinking_level is None and not thoughts:
        return None
    return types.ThinkingConfig(
        thinking_level=types.ThinkingLevel(request.thinking_level.upper()) if request.thinking_level else None,
        include_thoughts=thoughts or None,
    )
