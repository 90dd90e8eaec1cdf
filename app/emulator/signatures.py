"""Thought signatures. Each is valid for one part, at its position in its turn, and is checked in later turns."""

import hashlib
import hmac
from collections.abc import Sequence
from typing import Any

from app.emulator.google_json import ApiError, from_base64, to_base64

_SECRET = b"an emulator keeps no secrets"  # a constant, so that chats stay valid after a restart
_SKIP = "skip_thought_signature_validator"
_MAC_BYTES = 32
_TURN_BYTES = 4


def sign(parts: list[dict[str, Any]], model: str, turn: int, size: int) -> None:
    """Sign an answer's parts as Google does: each image, the first part if it is text, and each empty text.

    Thoughts are not signed. An empty text exists only to carry a signature.

    Args:
        parts: parts of the answer. The function adds signatures to them.
        model: id of the model. A signature is not valid for another model.
        turn: number of the turn in the conversation.
        size: bytes of a signature. Real ones have 0.8 to 2.2 MB.
    """
    visible = [part for part in parts if not part.get("thought")]
    for index, part in enumerate(visible):
        if "inlineData" in part or ("text" in part and (index == 0 or not part["text"])):
            mac = _mac(visible[: index + 1], model, turn) + turn.to_bytes(_TURN_BYTES)
            filler = hashlib.shake_256(mac).digest(max(0, size - len(mac)))
            part["thoughtSignature"] = to_base64(mac + filler)


def check(contents: list[dict[str, Any]], model: str) -> None:
    """Check the signatures of a conversation. Model turns may be missing, and so may thoughts.

    Raises:
        ApiError: a part or a signature is missing or changed, or turns are in another order. Text and positions are
            Google's; positions count from 1.
    """
    latest = 0
    for i, content in enumerate(contents, start=1):
        if content.get("role") != "model":
            continue
        visible = [(j, part) for j, part in enumerate(content.get("parts") or [], start=1) if not part.get("thought")]
        for index, (j, part) in enumerate(visible):
            position = f"content position {i}, part position {j}"
            signature = part.get("thoughtSignature")
            if "inlineData" in part and not signature:
                raise ApiError(400, f"Image part is missing a thought_signature in {position}.")
            if not signature or signature == _SKIP:
                continue
            decoded = from_base64(signature)
            turn = int.from_bytes(decoded[_MAC_BYTES : _MAC_BYTES + _TURN_BYTES])
            mac = _mac([one for _, one in visible[: index + 1]], model, turn)
            if not hmac.compare_digest(decoded[:_MAC_BYTES], mac) or turn < latest:
                raise ApiError(400, f"Thought signature is not valid in {position}.")
            latest = turn


def _mac(parts: Sequence[dict[str, Any]], model: str, turn: int) -> bytes:
    """Return a MAC of the parts: the signed part, and all parts before it in the same turn."""
    mac = hmac.new(_SECRET, f"{model} {turn}".encode(), "sha256")
    for part in parts:
        inline = part.get("inlineData") or {}
        try:
            content = from_base64(inline["data"]) if inline else part.get("text", "").encode()
        except ApiError:
            content = inline["data"].encode()  # a fault has replaced the image by invalid base64
        mac.update(len(content).to_bytes(8) + content)
    return mac.digest()
