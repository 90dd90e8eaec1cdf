"""The fingerprint of a request. It tells whether two requests ask for the same."""

import hashlib
import json
from dataclasses import fields
from typing import Any

from pydantic import TypeAdapter

from app.domain.generation import GenerationRequest, Reference
from app.domain.recorded import Order, TurnOrder
from app.lib.base64_json.digest import digest_of

_NOT_COMPARED = {"references", "references_field", "accepted_types", "chat_context"}
"""Fields that say how the request was sent, or in which form its response is wanted. References are compared by their
bytes."""

_COMPARED = [field.name for field in fields(GenerationRequest) if field.name not in _NOT_COMPARED]

_JSON = TypeAdapter[Any](Any)


async def fingerprint(route: str, order: Order, webhook_url: str | None) -> str:
    """Return the SHA-256 of what a request asks for, in hexadecimal.

    The route, all fields and the bytes of all files count. The order of fields, the boundary of a form, the names of
    files and `Accept` do not.
    """
    request = order.request
    compared = {
        "route": route,
        "request": {name: _JSON.dump_python(getattr(request, name), mode="json") for name in _COMPARED},
        "references": [await _reference(one) for one in request.references],
        "count": order.count,
        "turn": _turn(order.turn),
        "view": order.view,
        "webhook": webhook_url,
    }
    return hashlib.sha256(json.dumps(compared, sort_keys=True).encode()).hexdigest()


async def _reference(reference: Reference) -> list[Any]:
    return [await digest_of(reference.image.content), reference.role, reference.name]


def _turn(turn: TurnOrder | None) -> Any:
    if turn is None:
        return None
    expected = None if turn.expected_last_turns is None else sorted(turn.expected_last_turns)
    defaults = _JSON.dump_python(turn.defaults, mode="json")
    return [turn.chat_id, sorted(turn.given), defaults, expected, turn.replace_turn]
