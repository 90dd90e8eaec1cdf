"""Error responses in the OpenAPI document, each with an example."""

from datetime import UTC, datetime
from typing import Any

from app.api.http.problems import MEDIA_TYPE, problem_document
from app.domain.errors import (
    BudgetExhausted,
    ChatLimitReached,
    ContentBlocked,
    FieldError,
    GenerationInProgress,
    Internal,
    InvalidRequest,
    NoImage,
    NotAcceptable,
    QuotaExhausted,
    RangeNotSatisfiable,
    RateLimited,
    ServiceError,
    StaleTurn,
    StorageDamaged,
    StorageFull,
    StorageUnavailable,
    TooManyAtOnce,
)
from app.domain.generation import Usage
from app.domain.limits import MICRO_USD, Allowance, Budget, Limits, Period, Rate

Responses = dict[int | str, dict[str, Any]]
"""Responses of a route by status, as FastAPI's `responses=` takes them."""


def problem_responses(*errors: type[ServiceError]) -> Responses:
    """Return the error responses of a route for FastAPI's `responses=`."""
    by_status: dict[int, list[type[ServiceError]]] = {}
    for error in errors:
        by_status.setdefault(error.status, []).append(error)
    return {
        status: {
            "description": "; ".join(f"`{error.code}`: {error.title}" for error in group),
            "content": {
                MEDIA_TYPE: {
                    "schema": {"$ref": "#/components/schemas/Problem"},
                    "examples": {error.code: {"value": _example(error)} for error in group},
                }
            },
        }
        for status, group in by_status.items()
    }


def merge_responses(*documents: Responses) -> Responses:
    """Merge responses of a route; problems with the same status keep all their examples."""
    merged: Responses = {}
    for document in documents:
        for status, about in document.items():
            if status in merged and MEDIA_TYPE in about.get("content", {}):
                before = merged[status]
                (old,), (new,) = before["content"].values(), about["content"].values()
                merged[status] = {
                    "description": f"{before['description']}; {about['description']}",
                    "content": {MEDIA_TYPE: old | {"examples": old["examples"] | new["examples"]}},
                }
            else:
                merged[status] = about
    return merged


_USED = Usage(prompt_tokens=12, output_tokens=208, thoughts_tokens=208, total_tokens=220, estimated_cost_usd=0.00252)
_ALLOWANCE = Allowance(
    Limits(rate=Rate(60, "min"), concurrent=4, budget=Budget(20 * MICRO_USD, Period.MONTH)),
    requests_left=0,
    request_after=0.8,
    places_left=0,
    micro_usd_left=84_000,
    resets_at=datetime(2026, 12, 1, tzinfo=UTC),
)
_EXAMPLES: tuple[ServiceError, ...] = (
    Internal(),
    InvalidRequest([FieldError("aspectRatio", "gemini-3-pro-image has 1:1, 16:9 and 21:9, not 8:1")]),
    NotAcceptable("The image is image/jpeg; ask for that.", possible=("application/json", "image/jpeg")),
    ContentBlocked(
        "Unable to show the generated image.", finish_reason="IMAGE_SAFETY", model="gemini-3-pro-image", usage=_USED
    ),
    NoImage(
        "Gemini answered in words, without an image.",
        finish_reason="STOP",
        text="I would rather describe it.",
        model="gemini-3-pro-image",
        usage=_USED,
    ),
    QuotaExhausted("Gemini's quota for this service is used up for the moment.", scope="minute"),
    RateLimited("This key may send 60 requests per min.", retry_after=1, allowance=_ALLOWANCE),
    TooManyAtOnce(
        "This key may have 4 generations at once; 4 are running or waiting, and this request has 1.",
        retry_after=5,
        allowance=_ALLOWANCE,
    ),
    BudgetExhausted(
        "This request may cost 0.158408 USD. Of the budget of 20/month 0.084 USD are left.",
        retry_after=259_200,
        allowance=_ALLOWANCE,
    ),
    StaleTurn("The latest turn of this chat is 4.", last_turn=4),
    ChatLimitReached(
        "You have 10,000 chats, and the limit is 10,000. Delete chats that you no longer need.",
        limit="chats",
        most=10_000,
    ),
    StorageUnavailable("The database does not answer, or answers with an error.", part="database", retry_after=10),
    StorageFull("The image store is full. Nothing more can be saved.", part="blobs", retry_after=10),
    StorageDamaged("An image is missing from the image store.", part="blobs"),
    GenerationInProgress(
        "The image is still being made.",
        location="/generations/gen_5a4c1f0e7b6d4a9f8f0c2f1c3b7a9e12",
        retry_after=2,
    ),
    RangeNotSatisfiable("The file has 1,024 bytes.", size=1024),
)


def _example(class_: type[ServiceError]) -> dict[str, Any]:
    fitting = (error for error in _EXAMPLES if type(error) is class_)
    return problem_document(next(fitting, None) or class_(f"{class_.title}."), "req_1d0f6c6be5a04b1e9d53a1d0a4a5c7fb")
