"""The message of a webhook: its body, and its signature as Standard Webhooks defines it."""

import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from standardwebhooks import Webhook

from app.domain.recorded import RecordedGeneration

Document = Callable[[RecordedGeneration], Awaitable[Mapping[str, Any]]]
"""Returns the JSON document of a generation, with links instead of images. The key that signs links is in the storage.

Raises:
    StorageError: the storage does not answer.
"""

MAX_BODY_BYTES = 20_000
_LONG_TEXT_CHARACTERS = 256
"""Texts that are longer are left out first if the body is too large."""


class WebhookSigner:
    """Signs messages."""

    def __init__(self, secrets: Sequence[str]) -> None:
        """
        Args:
            secrets: each makes one signature, so that a receiver may know only one of them.
        """
        self._webhooks = [Webhook(secret) for secret in secrets]

    def headers(self, message_id: str, body: str, now: datetime) -> dict[str, str]:
        """Return the headers that say which message it is, when it is sent, and who has signed it.

        Args:
            message_id: the same for all tries.
            body: the JSON text.
            now: the time of this try, in UTC.
        """
        return {
            "webhook-id": message_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": " ".join(webhook.sign(message_id, now, body) for webhook in self._webhooks),
        }


def body_of(generation: RecordedGeneration, document: Mapping[str, Any]) -> str:
    """Return the JSON text that announces the end of a generation. It has at most `MAX_BODY_BYTES` in UTF-8.

    Args:
        generation: one that is over.
        document: its document. If it is too large, its largest texts are left out, and it says `"truncated": true`.
    """
    finished = datetime.fromtimestamp(generation.finished_at or generation.created_at, UTC)
    message = {
        "type": f"generation.{generation.status}",
        "timestamp": finished.isoformat().replace("+00:00", "Z"),
        "data": document,
    }
    text = _to_json(message)
    if len(text.encode()) <= MAX_BODY_BYTES:
        return text
    message["data"] = data = {**json.loads(_to_json(document)), "truncated": True}
    for is_removable in (_is_long_text, _is_list, _is_object, _is_text):
        for members, name in _largest_first(data, is_removable):
            del members[name]
            text = _to_json(message)
            if len(text.encode()) <= MAX_BODY_BYTES:
                return text
    return text


def _largest_first(data: Any, is_removable: Callable[[Any], bool]) -> list[tuple[dict[str, Any], str]]:
    found = [place for place in _members(data) if is_removable(place[0][place[1]])]
    return sorted(found, key=lambda place: len(_to_json(place[0][place[1]])), reverse=True)


def _members(value: Any) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield each member of each object inside the value, as the object and the member's name."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield value, name
            yield from _members(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _members(inner)


def _is_long_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) > _LONG_TEXT_CHARACTERS


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _to_json(value: Any) -> str:
    """Return compact JSON. A half of a surrogate pair, which UTF-8 does not have, is escaped."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":"))
    return text
