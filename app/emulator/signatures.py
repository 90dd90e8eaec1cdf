"""Thought signatures: made for one part at its place in one turn, and checked when it comes back on a later turn."""

import hashlib
import hmac
from collections.abc import Sequence
from typing import Any

from app.emulator.wire import ApiError, from_base64, to_base64

_SECRET = b"an emulator keeps no secrets"  # the same in every process, so that chats outlive a restart
_SKIP = "skip_thought_signature_validator"
_SEAL_BYTES = 32
_TURN_BYTES = 4


def sign(parts: list[dict[str, Any]], model: str, turn: int, size: int) -> None:
    """Sign an answer as Google does: every image that is no thought, the first text if it comes before them, and an
    empty text, which is there for its signature.

    Args:
        parts: of the answer; changed in place.
        model: who draws; a signature is of no use to another one.
        turn: how far the conversation has come.
        size: bytes of a signature; real ones have been 0.8 to 2.2 MB.
    """
    said = [part for part in parts if not part.get("thought")]
    for index, part in enumerate(said):
        if "inlineData" in part or ("text" in part and (index == 0 or not part["text"])):
            seal = _seal(said[: index + 1], model, turn) + turn.to_bytes(_TURN_BYTES)
            filler = hashlib.shake_256(seal).digest(max(0, size - len(seal)))
            part["thoughtSignature"] = to_base64(seal + filler)


def check(contents: list[dict[str, Any]], model: str) -> None:
    """Refuse a conversation whose model turns have lost or changed something, or come in another order.

    Turns may be missing, and thoughts.

    Raises:
        ApiError: with Google's words and its positions, which count from 1.
    """
    latest = 0
    for i, content in enumerate(contents, start=1):
        if content.get("role") != "model":
            continue
        said = [(j, part) for j, part in enumerate(content.get("parts") or [], start=1) if not part.get("thought")]
        for index, (j, part) in enumerate(said):
            place = f"content position {i}, part position {j}"
            signature = part.get("thoughtSignature")
            if "inlineData" in part and not signature:
                raise ApiError(400, f"Image part is missing a thought_signature in {place}.")
            if not signature or signature == _SKIP:
                continue
            decoded = from_base64(signature)
            turn = int.from_bytes(decoded[_SEAL_BYTES : _SEAL_BYTES + _TURN_BYTES])
            seal = _seal([one for _, one in said[: index + 1]], model, turn)
            if not hmac.compare_digest(decoded[:_SEAL_BYTES], seal) or turn < latest:
                raise ApiError(400, f"Thought signature is not valid in {place}.")
            latest = turn


def _seal(parts: Sequence[dict[str, Any]], model: str, turn: int) -> bytes:
    """Depends on the last of the parts, and on all that was said before it in the same turn."""
    seal = hmac.new(_SECRET, f"{model} {turn}".encode(), "sha256")
    for part in parts:
        inline = part.get("inlineData") or {}
        try:
            content = from_base64(inline["data"]) if inline else part.get("text", "").encode()
        except ApiError:
            content = inline["data"].encode()  # a fault put rubbish there
        seal.update(len(content).to_bytes(8) + content)
    return seal.digest()
