"""Thought signatures: made for one very part, and checked when that part comes back on a later turn."""

import hashlib
import hmac
from typing import Any

from app.emulator.wire import ApiError, from_base64, to_base64

_SECRET = b"an emulator keeps no secrets"  # the same in every process, so that chats outlive a restart
_SKIP = "skip_thought_signature_validator"


def sign(part: dict[str, Any], size: int) -> str:
    """A signature of about `size` bytes; real ones have been 0.8 to 2.2 MB."""
    seal = _seal(part)
    filler = hashlib.shake_256(seal).digest(max(0, size - len(seal)))
    return to_base64(seal + filler)


def check(contents: list[dict[str, Any]]) -> None:
    """Refuse a conversation whose model turns have lost or exchanged their signatures.

    Raises:
        ApiError: with Google's words and its positions, which count from 1.
    """
    for i, content in enumerate(contents, start=1):
        if content.get("role") != "model":
            continue
        for j, part in enumerate(content.get("parts") or [], start=1):
            if part.get("thought"):
                continue
            signature = part.get("thoughtSignature")
            place = f"content position {i}, part position {j}"
            if "inlineData" in part and not signature:
                raise ApiError(400, f"Image part is missing a thought_signature in {place}.")
            if signature and signature != _SKIP and not _genuine(part, signature):
                raise ApiError(400, f"Thought signature is not valid in {place}.")


def _genuine(part: dict[str, Any], signature: str) -> bool:
    seal = _seal(part)
    return hmac.compare_digest(from_base64(signature)[: len(seal)], seal)


def _seal(part: dict[str, Any]) -> bytes:
    inline = part.get("inlineData") or {}
    try:
        content = from_base64(inline["data"]) if inline else part.get("text", "").encode()
    except ApiError:
        content = inline["data"].encode()  # a fault put rubbish there
    return hmac.digest(_SECRET, content, "sha256")
