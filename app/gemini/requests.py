"""A `GenerationRequest`, as the SDK wants it said."""

import math

from google.genai import types

from app.catalogue import Model
from app.domain import GenerationRequest, Reference, Role
from app.gemini.transport import Exchange

_AS_A = {
    Role.CHARACTER: "shows the character",
    Role.OBJECT: "shows the object",
    Role.STYLE: "shows the style",
}


def contents(request: GenerationRequest, exchange: Exchange) -> list[types.Content]:
    """One user turn: the prompt, then the references, each behind a sentence that says what it is.

    The references themselves go with the exchange.
    """
    parts = [types.Part(text=request.prompt)]
    for number, reference in enumerate(request.references, start=1):
        if (label := _label(number, reference)) is not None:
            parts.append(types.Part(text=label))
        image = reference.image
        parts.append(
            types.Part(inline_data=types.Blob(data=exchange.sending(image.content), mime_type=image.mime_type))
        )
    return [types.Content(role="user", parts=parts)]


def config(
    request: GenerationRequest, model: Model, *, stream: bool = False, seconds: float | None = None
) -> types.GenerateContentConfig:
    """Only what was asked for: a knob left out is Gemini's to choose.

    Args:
        request: what was asked for.
        model: who is asked.
        stream: whether the answer is to come in chunks, of which the SDK gives no raw bodies.
        seconds: how long Gemini may take, if that is less than usual.
    """
    return types.GenerateContentConfig(
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
        should_return_http_response=not stream or None,  # the body as it is; app/gemini/wire.py says why
        http_options=types.HttpOptions(timeout=math.ceil(1000 * seconds)) if seconds is not None else None,
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
    thoughts = request.include_thoughts or (request.include_drafts and (model.include_thoughts or not model.listed))
    if request.thinking_level is None and not thoughts:
        return None
    return types.ThinkingConfig(
        thinking_level=types.ThinkingLevel(request.thinking_level.upper()) if request.thinking_level else None,
        include_thoughts=thoughts or None,
    )
