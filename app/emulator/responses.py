"""The body of an answer: parts, signatures, grounding and usage, as Google would send them."""

import io
import uuid
from typing import Any
from urllib.parse import quote

from PIL import Image

from app.emulator import signatures
from app.emulator.drawing import draw
from app.emulator.faults import Fault
from app.emulator.validation import ParsedRequest
from app.emulator.wire import to_base64

_WORDS = 120
_UNCOUNTED = 298
"""Words and thoughts of a model that thinks and does not say how much; 200 to 415 have been seen."""
_THOUGHTS = 208
_PLAN = "**Planning the picture**\n\nI choose the colours first, then the horizon, then where the words go.\n"


def answer(asked: ParsedRequest, fault: Fault, signature_bytes: int) -> dict[str, Any]:
    """The JSON of a 200 for `asked`, bent by `fault`."""
    if fault.block_reason:
        document: dict[str, Any] = {
            "promptFeedback": {"blockReason": fault.block_reason},
            "usageMetadata": {"promptTokenCount": prompt_tokens(asked), "candidatesTokenCount": 0},
        }
    elif fault.finish_reason and fault.finish_reason not in ("STOP", "MAX_TOKENS"):
        document = _refused(asked, fault)
    else:
        document = _drawn(asked, fault, signature_bytes)
    document |= {"modelVersion": asked.model.id, "responseId": uuid.uuid4().hex[:24]}
    return document


def _refused(asked: ParsedRequest, fault: Fault) -> dict[str, Any]:
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
    prompt = prompt_tokens(asked)
    # As measured: a refusal counts its thoughts twice, and the total counts them once.
    usage = {
        "promptTokenCount": prompt,
        "candidatesTokenCount": _THOUGHTS,
        "thoughtsTokenCount": _THOUGHTS,
        "totalTokenCount": prompt + _THOUGHTS,
    }
    return {"candidates": [candidate], "usageMetadata": usage}


def _drawn(asked: ParsedRequest, fault: Fault, signature_bytes: int) -> dict[str, Any]:
    parts = _parts(asked, fault)
    if fault.shape == "empty_candidate":
        candidates: list[dict[str, Any]] = [{"content": {}, "finishReason": "STOP", "index": 0}]
    elif fault.shape == "no_candidates":
        candidates = []
    else:
        if fault.shape == "empty_parts":
            parts.append({"text": ""})  # for a signature
        if asked.model.signs:
            signatures.sign(parts, asked.model.id, asked.turn, signature_bytes)
        if fault.shape == "empty_parts":
            parts = [part for one in parts for part in ({}, one)] + [{"text": ""}]
        content = {"role": "model", "parts": parts}
        candidates = [{"content": content, "finishReason": fault.finish_reason or "STOP", "index": 0}]
        if asked.search:
            candidates[0]["groundingMetadata"] = _grounding(asked, parts)
    pictures = sum("inlineData" in part and not part.get("thought") for part in parts)
    return {"candidates": candidates, "usageMetadata": _usage(asked, pictures)}


def _parts(asked: ParsedRequest, fault: Fault) -> list[dict[str, Any]]:
    text = {"text": fault.text or ("Here it is." if asked.turn == 1 else f"Here it is, changed (turn {asked.turn}).")}
    if fault.shape == "text_only" or "IMAGE" not in asked.modalities:
        return [{"text": fault.text or "I would rather talk about it than draw it."}]
    if fault.shape == "base64_in_text":
        return [{"text": f"![image](data:image/jpeg;base64,{to_base64(_draft(asked, 'draft'))})"}]
    final = _inline(asked, fault.image_base64 or to_base64(_picture(asked)), fault.mime_type)
    if fault.shape == "image_in_thought":
        return [{"text": _PLAN, "thought": True}, final | {"thought": True}]
    parts: list[dict[str, Any]] = []
    if asked.include_thoughts:
        parts += [
            {"text": _PLAN, "thought": True},
            _inline(asked, to_base64(_draft(asked, "thought"))) | {"thought": True},
        ]
    if fault.shape == "unflagged_drafts":
        parts += [_inline(asked, to_base64(_draft(asked, f"draft {number}"))) for number in (1, 2)]
    wants_text = "TEXT" in asked.modalities
    if fault.shape == "image_first":
        return [*parts, final, text]
    return [*parts, text, final] if wants_text else [*parts, final]


def _inline(asked: ParsedRequest, data: str, mime_type: str | None = None) -> dict[str, Any]:
    return {"inlineData": {"mimeType": mime_type or f"image/{asked.model.format.lower()}", "data": data}}


def _picture(asked: ParsedRequest) -> bytes:
    ratio = asked.ratio or _followed(asked) or "1:1"
    size = asked.model.pixels(ratio, asked.size)
    return draw(
        " ".join(asked.texts), size, asked.images, asked.model.format, turn=asked.turn, previous=asked.previous_image()
    )


def _draft(asked: ParsedRequest, note: str) -> bytes:
    """Drafts are drawn at 1K, whatever the size of the final image."""
    size = asked.model.pixels(asked.ratio or "1:1", "1K")
    return draw(" ".join(asked.texts), size, [], asked.model.format, note=note)


def _followed(asked: ParsedRequest) -> str | None:
    """Without a ratio the picture takes that of the last image sent in."""
    for data in [*reversed(asked.images), *filter(None, [asked.previous_image()])]:
        try:
            with Image.open(io.BytesIO(data)) as image:
                shape = image.width / image.height
        except OSError:
            continue
        return min(asked.model.ratios, key=lambda r: abs(asked.model.ratios[r][0] / asked.model.ratios[r][1] - shape))
    return None


def _grounding(asked: ParsedRequest, parts: list[dict[str, Any]]) -> dict[str, Any]:
    query = " ".join(" ".join(asked.texts).split()[:8])
    redirect = "https://vertexaisearch.cloud.google.com/grounding-api-redirect/emulated-"
    chunks: list[dict[str, Any]] = [
        {"web": {"uri": f"{redirect}{number}", "title": title}}
        for number, title in enumerate(("example.com", "example.org"))
    ]
    if asked.image_search:
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
    if asked.image_search:
        metadata["imageSearchQueries"] = [f"{query} photo"]
    return metadata


def _usage(asked: ParsedRequest, pictures: int) -> dict[str, Any]:
    prompt, drawn = prompt_tokens(asked), pictures * asked.model.sizes[asked.size]
    level = (asked.thinking_level or "").upper()
    thinks = asked.model.thinks_by_default if not level else level != "MINIMAL"
    words = _WORDS if thinks or not asked.model.signs else _UNCOUNTED
    usage: dict[str, Any] = {
        "promptTokenCount": prompt,
        "candidatesTokenCount": drawn + words,
        "totalTokenCount": prompt + drawn + words + (_THOUGHTS if thinks else 0),
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": _text_tokens(asked)}],
    }
    if asked.images:
        usage["promptTokensDetails"].append({"modality": "IMAGE", "tokenCount": 516 * len(asked.images)})
    if drawn:
        usage["candidatesTokensDetails"] = [{"modality": "IMAGE", "tokenCount": drawn}]
    if thinks:
        usage["thoughtsTokenCount"] = _THOUGHTS
    return usage


def _text_tokens(asked: ParsedRequest) -> int:
    return sum(len(text.encode()) // 4 + 1 for text in asked.texts)


def prompt_tokens(asked: ParsedRequest) -> int:
    return _text_tokens(asked) + 516 * len(asked.images)
