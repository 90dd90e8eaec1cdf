"""Convert orders, outcomes and stored answers to JSON documents and back."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, get_type_hints

from pydantic import TypeAdapter

from app.domain.caller import Caller
from app.domain.generation import Generation, GenerationRequest
from app.domain.limits import Budget, Limits
from app.domain.recorded import NewGeneration, Order, Outcome, TurnOrder, TurnToSave
from app.domain.spending import Charge
from app.store import serialization
from app.store.chats.serialization import dump_turn, turn_of
from app.store.generations.errors import dump_error, load_error
from app.store.serialization import NameBlob, OpenBlob, raises_storage_damaged, to_json

_EMPTY = GenerationRequest(prompt="")

_HINTS = get_type_hints(GenerationRequest)

_REQUEST_FIELDS: dict[str, TypeAdapter[Any]] = {
    field.name: TypeAdapter(_HINTS[field.name])
    for field in fields(GenerationRequest)
    if field.name not in ("references", "chat_context")
}

_GENERATION_FIELDS = (
    "id",
    "model",
    "model_version",
    "text",
    "thoughts",
    "finish_reason",
    "attempts",
    "chat_id",
    "turn",
)


@dataclass(frozen=True, slots=True)
class OrderDocument:
    """The column `document`: the order, and what else does not change."""

    order: Order
    base_url: str
    keep_seconds: float | None
    """Time for which it is stored after its end; `None` for the store's own."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What `keep_answer` writes into the blob store, so that it is complete without the database."""

    generation: Generation
    turn: TurnToSave | None


def dump_order(new: NewGeneration, name_blob: NameBlob, keep_seconds: float | None) -> str:
    """Return the column `document` of a new generation. References are included if it is asynchronous."""
    order = new.order
    return to_json(
        {
            "caller": _dump_caller(order.caller),
            "request": _dump_request(order.request, name_blob, with_references=new.is_async),
            "count": order.count,
            "turn": _dump_turn_order(order.turn) if order.turn else None,
            "charge": order.charge and asdict(order.charge),
            "view": dict(order.view),
            "baseUrl": new.base_url,
            "keepSeconds": keep_seconds,
        }
    )


@raises_storage_damaged
def load_order(text: str, open_blob: OpenBlob) -> OrderDocument:
    document = json.loads(text)
    turn = document["turn"]
    order = Order(
        caller=_load_caller(document["caller"]),
        request=_load_request(document["request"], open_blob),
        count=document["count"],
        turn=_load_turn_order(turn) if turn else None,
        charge=Charge(**charge) if (charge := document.get("charge")) else None,
        view=document["view"],
    )
    return OrderDocument(order, document["baseUrl"], document["keepSeconds"])


def without_references(text: str) -> str:
    """Return the column `document` without the reference images."""
    document = json.loads(text)
    document["request"]["references"] = []
    return to_json(document)


def image_count(text: str) -> int:
    """Return the number of images of the order."""
    count: int = json.loads(text)["count"]
    return count


def _dump_caller(caller: Caller) -> dict[str, Any]:
    """Return the caller without its rate and its concurrency, which were decided on when it was submitted."""
    limits = caller.limits
    return {
        "name": caller.name,
        "keyed": caller.keyed,
        "maxSize": limits.max_size,
        "models": list(limits.models),
        "budget": limits.budget and str(limits.budget),
        "endUser": caller.end_user,
    }


def _load_caller(document: dict[str, Any]) -> Caller:
    budget = document.get("budget")
    limits = Limits(
        budget=Budget.parse(budget) if budget else None,
        max_size=document.get("maxSize"),
        models=tuple(document.get("models", ())),
    )
    return Caller(document["name"], document["keyed"], limits, document.get("endUser"))


def _dump_request(request: GenerationRequest, name_blob: NameBlob, *, with_references: bool) -> dict[str, Any]:
    document = {
        name: adapter.dump_python(getattr(request, name), mode="json")
        for name, adapter in _REQUEST_FIELDS.items()
        if getattr(request, name) != getattr(_EMPTY, name) or name == "prompt"
    }
    references = [
        serialization.dump_reference(one, name_blob) | {"warning": one.warning}
        for one in (request.references if with_references else ())
    ]
    return document | {"references": references}


def _load_request(document: dict[str, Any], open_blob: OpenBlob) -> GenerationRequest:
    values = {
        name: adapter.validate_python(document[name]) for name, adapter in _REQUEST_FIELDS.items() if name in document
    }
    references = (
        replace(serialization.load_reference(one, open_blob), warning=one["warning"]) for one in document["references"]
    )
    return GenerationRequest(**values, references=tuple(references))


def _dump_turn_order(turn: TurnOrder) -> dict[str, Any]:
    expected = turn.expected_last_turns
    return {
        "chatId": turn.chat_id,
        "given": sorted(turn.given),
        "defaults": None if turn.defaults is None else serialization.dump_defaults(turn.defaults),
        "expectedLastTurns": None if expected is None else sorted(expected),
        "replaceTurn": turn.replace_turn,
    }


def _load_turn_order(document: dict[str, Any]) -> TurnOrder:
    defaults, expected = document["defaults"], document["expectedLastTurns"]
    return TurnOrder(
        chat_id=document["chatId"],
        given=frozenset(document["given"]),
        defaults=None if defaults is None else serialization.load_defaults(defaults),
        expected_last_turns=None if expected is None else frozenset(expected),
        replace_turn=document["replaceTurn"],
    )


def dump_generation(generation: Generation, name_blob: NameBlob) -> dict[str, Any]:
    """Return the document of a generation, without the parts that only its turn holds."""
    return {
        **{name: getattr(generation, name) for name in _GENERATION_FIELDS},
        "image": serialization.dump_image(generation.image, name_blob),
        "drafts": [serialization.dump_image(one, name_blob) for one in generation.drafts],
        "usage": serialization.dump_usage(generation.usage),
        "grounding": serialization.dump_grounding(generation.grounding),
        "warnings": list(generation.warnings),
    }


def load_generation(document: dict[str, Any], open_blob: OpenBlob) -> Generation:
    usage = serialization.load_usage(document["usage"])
    if usage is None:
        raise ValueError("a generation has no usage")
    return Generation(
        **{name: document[name] for name in _GENERATION_FIELDS},
        image=serialization.load_image(document["image"], open_blob),
        drafts=tuple(serialization.load_image(one, open_blob) for one in document["drafts"]),
        usage=usage,
        grounding=serialization.load_grounding(document["grounding"]),
        warnings=tuple(document["warnings"]),
    )


def dump_result(outcomes: Sequence[Outcome], name_blob: NameBlob, *, is_converted: bool) -> str:
    """Return the column `result`."""
    documents = [
        {"generation": dump_generation(one, name_blob)} if isinstance(one, Generation) else {"error": dump_error(one)}
        for one in outcomes
    ]
    return to_json({"outcomes": documents, "isConverted": is_converted})


@raises_storage_damaged
def load_result(text: str, open_blob: OpenBlob) -> tuple[tuple[Outcome, ...], bool]:
    """Return the outcomes, and whether the images are converted."""
    document = json.loads(text)
    outcomes = (
        load_generation(one["generation"], open_blob) if "generation" in one else load_error(one["error"])
        for one in document["outcomes"]
    )
    return tuple(outcomes), document["isConverted"]


def dump_answer(answer: Answer, name_blob: NameBlob) -> str:
    turn = answer.turn
    saved = turn and {
        "chatId": turn.chat_id,
        "owner": turn.owner,
        "leaseHolder": turn.lease_holder,
        "number": turn.turn.number,
        "state": turn.turn.state,
        "replaces": turn.replaces,
        "document": dump_turn(turn.turn, name_blob),
    }
    return to_json({"generation": dump_generation(answer.generation, name_blob), "turn": saved})


@raises_storage_damaged
def load_answer(text: bytes, open_blob: OpenBlob) -> Answer:
    document = json.loads(text)
    saved = document["turn"]
    turn = saved and TurnToSave(
        chat_id=saved["chatId"],
        owner=saved["owner"],
        lease_holder=saved["leaseHolder"],
        turn=turn_of(saved["document"], open_blob, number=saved["number"], state=saved["state"]),
        replaces=saved["replaces"],
    )
    return Answer(load_generation(document["generation"], open_blob), turn)
