"""Check requests as Google does, with Google's error texts."""

import io
from dataclasses import dataclass
from typing import Any

from PIL import Image, UnidentifiedImageError

from app.emulator import signatures
from app.emulator.google_json import ApiError, from_base64, snake_case
from app.emulator.models import MODELS, Model

_MIME_TYPES = ("image/png", "image/jpeg", "image/webp", "image/heic", "image/heif")
_IMAGE_CONFIG = {"aspectRatio", "imageSize"}
_VERTEX_IMAGE_CONFIG = _IMAGE_CONFIG | {"personGeneration", "prominentPeople", "imageOutputOptions"}
_DATA_FIELDS = (
    "text", "inlineData", "fileData", "functionCall", "functionResponse", "executableCode", "codeExecutionResult",
    "toolCall", "toolResponse",
)  # fmt: skip
"""Fields that can hold a part's data. A part has one of them."""
_REQUEST_FIELDS = {
    "contents", "systemInstruction", "tools", "toolConfig", "safetySettings", "generationConfig", "cachedContent",
    "serviceTier", "store", "labels", "model",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """A valid request, and the values that its image depends on."""

    model: Model
    contents: list[dict[str, Any]]
    texts: list[str]
    """The texts of the last turn."""
    images: list[bytes]
    """The images of the last turn."""
    ratio: str | None
    size: str
    modalities: list[str]
    thinking_level: str | None
    include_thoughts: bool
    search: bool
    image_search: bool

    @property
    def turn(self) -> int:
        return sum(content.get("role", "user") == "user" for content in self.contents)

    def previous_image(self) -> bytes | None:
        """Return the latest image that the model sent in this conversation."""
        for content in reversed(self.contents):
            if content.get("role") == "model":
                for part in reversed(content.get("parts") or []):
                    if "inlineData" in part:
                        return from_base64(part["inlineData"]["data"])
        return None


def parse(model_id: str, version: str, body: dict[str, Any], *, vertex: bool) -> ParsedRequest:
    """Check and parse the body of a `generateContent` request.

    Raises:
        ApiError: the error that Google would answer.
    """
    model = MODELS.get(model_id)
    if model is None:
        raise ApiError(
            404,
            f"models/{model_id} is not found for API version {version}, or is not supported for generateContent. "
            "Call ListModels to see the list of available models and their supported methods.",
        )
    for key in body.keys() - _REQUEST_FIELDS:
        raise ApiError(400, f'Invalid JSON payload received. Unknown name "{key}": Cannot find field.')
    contents = body.get("contents")
    if not contents:
        raise ApiError(400, "* GenerateContentRequest.contents: contents is not specified\n")
    _require_parts(contents)
    texts, images = _last_turn(contents)
    if model.has_signatures:
        signatures.check(contents, model.id)
    config = body.get("generationConfig") or {}
    if len(images) > model.max_images:
        raise ApiError(400, f"Number of images exceeds the limit: {model.max_images}.")
    # On /v1, `responseFormat.image` is the newer spelling of `imageConfig`.
    format_ = (config.get("responseFormat") or {}).get("image") or {}
    ratio, size = _image_config(config.get("imageConfig") or format_, model, vertex)
    if config.get("candidateCount", 1) > 1:
        raise ApiError(400, "Multiple candidates is not enabled for this model")
    if str(config.get("responseMimeType", "")).startswith("image/"):
        raise ApiError(400, f"response_mime_type {config['responseMimeType']} is not supported.")
    level, include_thoughts = _thinking(config.get("thinkingConfig") or {}, model)
    search, image_search = _search(body.get("tools") or [], model)
    return ParsedRequest(
        model=model,
        contents=contents,
        texts=texts,
        images=images,
        ratio=ratio,
        size=size,
        modalities=config.get("responseModalities") or ["TEXT", "IMAGE"],
        thinking_level=level,
        include_thoughts=include_thoughts,
        search=search,
        image_search=image_search,
    )


def _require_parts(contents: list[dict[str, Any]]) -> None:
    """Check that contents have parts, and parts have data. An empty text counts as data only with a signature.

    Raises:
        ApiError: its text names every invalid position. Positions count from 0.
    """
    wrong = []
    for i, content in enumerate(contents):
        position = f"* GenerateContentRequest.contents[{i}].parts"
        parts = content.get("parts") or []
        if not parts:
            wrong.append(f"{position}: contents.parts must not be empty.")
        for j, part in enumerate(parts):
            has_data = any(part.get(name) for name in _DATA_FIELDS) or ("text" in part and part.get("thoughtSignature"))
            if not has_data:
                wrong.append(f"{position}[{j}].data: required oneof field 'data' must have one initialized field")
    if wrong:
        raise ApiError(400, "".join(f"{line}\n" for line in wrong))


def _last_turn(contents: list[dict[str, Any]]) -> tuple[list[str], list[bytes]]:
    texts: list[str] = []
    images: list[bytes] = []
    for i, content in enumerate(contents):
        for j, part in enumerate(content.get("parts") or []):
            last = content is contents[-1]
            if "inlineData" in part:
                data = _image(part["inlineData"], f"contents[{i}].parts[{j}]")
                images += [data] if last else []
            elif last and part.get("text"):
                texts.append(part["text"])
    return texts, images


def _image(inline: dict[str, Any], position: str) -> bytes:
    mime_type = inline.get("mimeType")
    if mime_type not in _MIME_TYPES:
        listed = f"{', '.join(_MIME_TYPES[:-1])}, or {_MIME_TYPES[-1]}"
        path = f"GenerateContentRequest.{position}.inline_data.mime_type"
        raise ApiError(400, f"* {path}: MIME type must be {listed}.\n")
    data = from_base64(inline.get("data"))
    if mime_type in ("image/heic", "image/heif"):
        return data  # Pillow cannot read HEIC and HEIF
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.verify()
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise ApiError(400, "Unable to process input image. Please retry or report in AI Studio.") from error
    return data


def _image_config(config: dict[str, Any], model: Model, vertex: bool) -> tuple[str | None, str]:
    allowed = _VERTEX_IMAGE_CONFIG if vertex else _IMAGE_CONFIG
    where = "'generation_config.image_config'"
    for key in config.keys() - allowed:
        raise ApiError(
            400, f'Invalid JSON payload received. Unknown name "{snake_case(key)}" at {where}: Cannot find field.'
        )
    ratio, size = config.get("aspectRatio"), config.get("imageSize")
    if ratio is not None and ratio not in model.ratios:
        raise ApiError(
            400, f"Invalid value at 'generation_config.image_config.aspect_ratio' (TYPE_STRING), \"{ratio}\""
        )
    if size is not None and (size not in model.sizes or not model.has_image_size):
        raise ApiError(400, f"Invalid value at 'generation_config.image_config.image_size' (TYPE_STRING), \"{size}\"")
    return ratio, size or "1K"


def _thinking(config: dict[str, Any], model: Model) -> tuple[str | None, bool]:
    level = config.get("thinkingLevel")
    if config and model.thinking_levels == ():
        raise ApiError(400, "Thinking is not enabled for this model")
    if level and model.thinking_levels is not None and level.upper() not in model.thinking_levels:
        message = (
            f"Thinking level {level.upper()} is not supported for this model. Please retry with other thinking level."
        )
        raise ApiError(400, message)
    return level, bool(config.get("includeThoughts"))


def _search(tools: list[dict[str, Any]], model: Model) -> tuple[bool, bool]:
    settings = next((tool["googleSearch"] for tool in tools if "googleSearch" in tool), None)
    if settings is None:
        return False, False
    image_search = "imageSearch" in ((settings or {}).get("searchTypes") or {})
    if not model.search or (image_search and not model.image_search):
        raise ApiError(400, "Search Grounding is not supported.")
    return True, image_search
