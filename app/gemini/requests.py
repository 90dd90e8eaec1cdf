"""Convert a `GenerationRequest` to the SDK's arguments."""

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
"""A dummy for the SDK's `contents` argument. The real contents go into the config as JSON. The SDK would take 1 ms for
each further turn of a chat to turn its own types into JSON."""

_WIRE_NAMES = {name: to_camel(name) for name in types.Part.model_fields}

_DATA_FIELDS = (
    "text", "inlineData", "fileData", "functionCall", "functionResponse", "executableCode", "codeExecutionResult",
    "toolCall", "toolResponse",
)  # fmt: skip
"""Fields of a part that hold data. Gemini rejects a part without any of them, or with just an empty text."""

_ROLE_LABELS = {
    Role.CHARACTER: "shows the character",
    Role.OBJECT: "shows the object",
    Role.STYLE: "shows the style",
}


class _Config(types.GenerateContentConfig):
    """A config that saves 0.7 ms of CPU time per request (2.6 ms without it, 1.9 ms with it; Python 3.11).

    The SDK checks each of its 40 fields with `in`. A Pydantic model answers by comparing the name with all its fields:
    1,500 comparisons for each request. If the answer is false, the SDK reads the attribute instead.
    """

    def __contains__(self, _: object) -> bool:
        return False


def user_parts(request: GenerationRequest) -> tuple[Part, ...]:
    """Return the parts of the user's turn: the prompt, images of the chat, then each reference after its label."""
    parts = [Part.from_text(request.prompt), *(request.chat_context.parts if request.chat_context else ())]
    for number, reference in enumerate(request.references, start=1):
        if (label := _label(number, reference)) is not None:
            parts.append(Part.from_text(label))
        parts.append(Part.from_image(reference.image))
    return tuple(parts)


def _contents(request: GenerationRequest, exchange: ImageExchange) -> list[dict[str, Any]]:
    """Return the turns of the chat and the user's turn as JSON, with placeholders for images and signatures."""
    turns = [("user", user_parts(request))]
    for turn in reversed(request.chat_context.turns if request.chat_context else ()):
        turns[:0] = [("user", turn.user), ("model", turn.answer)]
    contents = ({"parts": _parts_json(parts, exchange), "role": role} for role, parts in turns)
    return [content for content in contents if content["parts"]]


def _parts_json(parts: Iterable[Part], exchange: ImageExchange) -> list[dict[str, Any]]:
    """Return the parts that are not empty. Gemini sends empty parts, but rejects them in a request."""
    documents = (_part_json(part, exchange) for part in parts)
    return [document for document in documents if document is not None]


def _part_json(part: Part, exchange: ImageExchange) -> dict[str, Any] | None:
    """Return a part as JSON with the SDK's fields in camelCase, or `None` if it is empty.

    A part with a signature and no data gets an empty text, as Gemini sends it.
    """
    known = _sdk_part(part, exchange).model_dump(mode="json", exclude_none=True)
    document = {_WIRE_NAMES[name]: value for name, value in known.items()}
    if any(document.get(name) for name in _DATA_FIELDS):
        return document
    return {"text": ""} | document if document.get("thoughtSignature") else None


def _sdk_part(part: Part, exchange: ImageExchange) -> types.Part:
    """Return a part as the SDK's type. Fields that the SDK does not know, or whose value it rejects, are left out.

    Raises:
        InvalidThoughtSignature: the SDK rejects a field of the image, so that the part cannot be sent unchanged.
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
            errors = error.errors(include_input=False)
        before, is_image_affected = fields, False
        for one in errors:
            fields = _without(fields, one["loc"])
            is_image_affected |= one["type"] != "extra_forbidden" and one["loc"][0] in ("inlineData", "inline_data")
        if fields == before or is_image_affected:
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
    """Return the SDK's config. It holds only what the request sets; Gemini chooses the defaults.

    Args:
        request: the request.
        model: the model to call.
        exchange: the exchange that sends images and signatures.
        stream: whether the response is a stream. The SDK gives access to the raw body only without streaming.
        seconds: time limit for Gemini, if it is shorter than the client's.
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
        should_return_http_response=not stream or None,  # the raw body; see app/gemini/response_schema.py
        http_options=types.HttpOptions(
            timeout=math.ceil(1000 * seconds) if seconds is not None else None,
            extra_body={"contents": _contents(request, exchange)},
        ),
        # Both would make further calls to Gemini.
        automatic_continuation=False,
        automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
    )


def _label(number: int, reference: Reference) -> str | None:
    """Return the text before a reference, so that the prompt can refer to "Anna" or "the logo"."""
    if reference.role is None and reference.name is None:
        return None
    verb = _ROLE_LABELS[reference.role] if reference.role else "shows"
    name = f" {reference.name}" if reference.name else " to follow"
    return f"Reference image {number} {verb}{name}:"


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
    # Some drafts are thoughts. Gemini sends them only if thoughts are included.
    thoughts = request.include_thoughts or (request.include_drafts and (model.include_thoughts or not model.is_known))
    if request.thinking_level is None and not thoughts:
        return None
    return types.ThinkingConfig(
        thinking_level=types.ThinkingLevel(request.thinking_level.upper()) if request.thinking_level else None,
        include_thoughts=thoughts or None,
    )
