"""Bodies of successful answers and refusals: parts, signatures, grounding and usage, as Google sends them."""

import io
import uuid
from typing import Any
from urllib.parse import quote

from PIL import Image

from app.emulator import signatures
from app.emulator.drawing import draw
from app.emulator.faults import Fault
from app.emulator.google_json import to_base64
from app.emulator.validation import ParsedRequest

_TEXT_TOKENS = 120
_UNREPORTED_TOKENS = 298
"""Tokens of text and thoughts of a model that thinks but does not report its thoughts. 200 to 415 have been seen."""
_THOUGHT_TOKENS = 208
_IMAGE_PROMPT_TOKENS = 516
_PLAN = "**Planning the picture**\n\nI choose the colours first, then the horizon, then where the words go.\n"


def generate(request: ParsedRequest, fault: Fault, signature_bytes: int) -> dict[str, Any]:
    """Return the JSON of a 200 response, changed as `fault` says. `Fault.patch` is applied later."""
    if fault.block_reason:
        document: dict[str, Any] = {
            "promptFeedback": {"blockReason": fault.block_reason},
            "usageMetadata": {"promptTokenCount": prompt_tokens(request), "candidatesTokenCount": 0},
        }
    elif fault.finish_reason and fault.finish_reason not in ("STOP", "MAX_TOKENS"):
        document = _refusal(request, fault)
    else:
        document = _success(request, fault, signature_bytes)
    document |= {"modelVersion": request.model.id, "responseId": uuid.uuid4().hex[:24]}
    return document


def split_chunks(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Split an answer into the chunks of a stream: one part each. The last one has the reason, sources and usage."""
    candidates = document.get("candidates") or []
    parts = (candidates[0].get("content", {}).get("parts") if candidates else None) or []
    if not parts:
        return [document]
    common = {key: document[key] for key in ("modelVersion", "responseId") if key in document}
    early = [
        {"candidates": [{"content": {"role": "model", "parts": [part]}, "index": 0}], **common} for part in parts[:-1]
    ]
    last = {**candidates[0], "content": {"role": "model", "parts": parts[-1:]}}
    return [*early, {**document, "candidates": [last]}]


def _refusal(request: ParsedRequest, fault: Fault) -> dict[str, Any]:
    message = fault.finish_message or (
        "Unable to show the generated image. The model could not generate the image based on the prompt provided. "
        "You will not be charged for this request. Try rephrasing the prompt."
    )
    candidate: dict[str, Any] = {
        "content": {},
        "finishReason": fault.finish_reason,
        "index": 0,
        "finishMessage": message,
    }
    prompt = prompt_tokens(request)
    # As measured: a refusal reports its thoughts twice, and the total contains them once.
    usage = {
        "promptTokenCount": prompt,
        "candidatesTokenCount": _THOUGHT_TOKENS,
        "thoughtsTokenCount": _THOUGHT_TOKENS,
        "totalTokenCount": prompt + _THOUGHT_TOKENS,
    }
    return {"candidates": [candidate], "usageMetadata": usage}


def _success(request: ParsedRequest, fault: Fault, signature_bytes: int) -> dict[str, Any]:
    parts = _parts(request, fault)
    if fault.shape == "empty_candidate":
        candidates: list[dict[str, Any]] = [{"content": {}, "finishReason": "STOP", "index": 0}]
    elif fault.shape == "no_candidates":
        candidates = []
    else:
        if fault.shape == "empty_parts":
            parts.append({"text": ""})  # `sign` gives it a signature
        if request.model.has_signatures:
            signatures.sign(parts, request.model.id, request.turn, signature_bytes)
        if fault.shape == "empty_parts":
            parts = [part for one in parts for part in ({}, one)] + [{"text": ""}]
        content = {"role": "model", "parts": parts}
        candidates = [{"content": content, "finishReason": fault.finish_reason or "STOP", "index": 0}]
        if request.search:
            candidates[0]["groundingMetadata"] = _grounding(request, parts)
    images = sum("inlineData" in part and not part.get("thought") for part in parts)
    return {"candidates": candidates, "usageMetadata": _usage(request, images)}


def _parts(request: ParsedRequest, fault: Fault) -> list[dict[str, Any]]:
    text = {
        "text": fault.text or ("Here it is." if request.turn == 1 else f"Here it is, changed (turn {request.turn}).")
    }
    if fault.shape == "text_only" or "IMAGE" not in request.modalities:
        return [{"text": fault.text or "I would rather talk about it than draw it."}]
    if fault.shape == "base64_in_text":
        return [{"text": f"![image](data:image/jpeg;base64,{to_base64(_draw_draft(request, 'draft'))})"}]
    final = _image_part(request, fault.image_base64 or to_base64(_draw_image(request)), fault.mime_type)
    if fault.shape == "image_in_thought":
        return [{"text": _PLAN, "thought": True}, final | {"thought": True}]
    parts: list[dict[str, Any]] = []
    if request.include_thoughts:
        parts += [
            {"text": _PLAN, "thought": True},
            _image_part(request, to_base64(_draw_draft(request, "thought"))) | {"thought": True},
        ]
    if fault.shape == "unflagged_drafts":
        parts += [_image_part(request, to_base64(_draw_draft(request, f"draft {number}"))) for number in (1, 2)]
    wants_text = "TEXT" in request.modalities
    if fault.shape == "image_first":
        return [*parts, final, text]
    return [*parts, text, final] if wants_text else [*parts, final]


def _image_part(request: ParsedRequest, data: str, mime_type: str | None = None) -> dict[str, Any]:
    return {"inlineData": {"mimeType": mime_type or f"image/{request.model.format.lower()}", "data": data}}


def _draw_image(request: ParsedRequest) -> bytes:
    ratio = request.ratio or _reference_ratio(request) or "1:1"
    size = request.model.pixels(ratio, request.size)
    return draw(
        " ".join(request.texts),
        size,
        request.images,
        request.model.format,
        turn=request.turn,
        previous=request.previous_image(),
    )


def _draw_draft(request: ParsedRequest, note: str) -> bytes:
    """Return a draft. It has the size 1K, even if the final image is larger."""
    size = request.model.pixels(request.ratio or "1:1", "1K")
    return draw(" ".join(request.texts), size, [], request.model.format, note=note)


def _reference_ratio(request: ParsedRequest) -> str | None:
    """Return the model's ratio that is nearest to the last reference. Google uses it if the request names no ratio."""
    for data in [*reversed(request.images), *filter(None, [request.previous_image()])]:
        try:
            with Image.open(io.BytesIO(data)) as image:
                shape = image.width / image.height
        except OSError:
            continue
        return min(
            request.model.ratios, key=lambda r: abs(request.model.ratios[r][0] / request.model.ratios[r][1] - shape)
        )
    return None


def _grounding(request: ParsedRequest, parts: list[dict[str, Any]]) -> dict[str, Any]:
    query = " ".join(" ".join(request.texts).split()[:8])
    redirect = "https://vertexaisearch.cloud.google.com/grounding-api-redirect/emulated-"
    chunks: list[dict[str, Any]] = [
        {"web": {"uri": f"{redirect}{number}", "title": title}}
        for number, title in enumerate(("example.com", "example.org"))
    ]
    if request.image_search:
        source = {"sourceUri": "https://example.net/gallery", "imageUri": "https://example.net/gallery/1.jpg"}
        chunks.append({"image": source | {"title": "A gallery", "domain": "example.net"}})
    text = next((part["text"] for part in parts if "text" in part and not part.get("thought")), "")
    chip = f'<a class="chip" href="https://www.google.com/search?q={quote(query)}">{quote(query, safe=" ")}</a>'
    metadata: dict[str, Any] = {
        "webSearchQueries": [query, f"{query} reference"],
        "searchEntryPoint": {"renderedContent": f"<style>.chip{{padding:4px}}</style><div>{chip}</div>"},
        "groundingChunks": chunks,
        "groundingSupports": [
            {
                "segment": {"partIndex": 0, "startIndex": 0, "endIndex": len(text.encode()), "text": text},
                "groundingChunkIndices": [0, 1],
                "confidenceScores": [0.9, 0.7],
            }
        ],
    }
    if request.image_search:
        metadata["imageSearchQueries"] = [f"{query} photo"]
    return metadata


def _usage(request: ParsedRequest, images: int) -> dict[str, Any]:
    prompt, image_tokens = prompt_tokens(request), images * request.model.sizes[request.size]
    level = (request.thinking_level or "").upper()
    thinks = request.model.thinks_by_default if not level else level != "MINIMAL"
    text_tokens = _TEXT_TOKENS if thinks or not request.model.has_signatures else _UNREPORTED_TOKENS
    usage: dict[str, Any] = {
        "promptTokenCount": prompt,
        "candidatesTokenCount": image_tokens + text_tokens,
        "totalTokenCount": prompt + image_tokens + text_tokens + (_THOUGHT_TOKENS if thinks else 0),
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": _text_tokens(request)}],
    }
    if request.images:
        usage["promptTokensDetails"].append(
            {"modality": "IMAGE", "tokenCount": _IMAGE_PROMPT_TOKENS * len(request.images)}
        )
    if image_tokens:
        usage["candidatesTokensDetails"] = [{"modality": "IMAGE", "tokenCount": image_tokens}]
    if thinks:
        usage["thoughtsTokenCount"] = _THOUGHT_TOKENS
    return usage


def _text_tokens(request: ParsedRequest) -> int:
    return sum(len(text.encode()) // 4 + 1 for text in request.texts)


def prompt_tokens(request: ParsedRequest) -> int:
    return _text_tokens(request) + _IMAGE_PROMPT_TOKENS * len(request.images)
