"""Everything that can go wrong, drawn as a tree.

    ServiceError
    ├── CallerError                   the caller can change something
    │   ├── InvalidHttp                 400 invalid_http
    │   ├── InvalidJson                 400 invalid_json
    │   ├── InvalidForm                 400 invalid_form
    │   ├── Unauthorized                401 unauthorized
    │   ├── ForbiddenOrigin             403 forbidden_origin
    │   ├── ForbiddenHost               403 forbidden_host
    │   ├── NotFound                    404 not_found
    │   ├── ChatNotFound                404 chat_not_found
    │   ├── TurnNotFound                404 turn_not_found
    │   ├── MethodNotAllowed            405 method_not_allowed
    │   ├── NotAcceptable               406 not_acceptable
    │   ├── SlowUpload                  408 slow_upload
    │   ├── TurnInProgress              409 turn_in_progress
    │   ├── TurnLost                    409 turn_lost
    │   ├── ChatLimitReached            409 chat_limit_reached
    │   ├── StaleTurn                   412 stale_turn
    │   ├── TooLarge                    413 too_large
    │   ├── UnsupportedMediaType        415 unsupported_media_type
    │   ├── UnsupportedImage            415 unsupported_image
    │   ├── RangeNotSatisfiable         416 range_not_satisfiable
    │   ├── InvalidRequest              422 invalid_request
    │   └── HeaderTooLarge              431 too_large
    ├── Refused                       Gemini answered, and there is no image in it
    │   ├── ContentBlocked              422 content_blocked
    │   ├── Recitation                  422 recitation
    │   └── NoImage                     422 no_image
    ├── UpstreamError                 502 upstream_error
    │   ├── UpstreamInvalidResponse     502 upstream_invalid_response
    │   ├── UpstreamRejectedCredentials 502 upstream_rejected_credentials
    │   ├── UnusableSignatures          502 upstream_error              a chat goes on without them
    │   ├── UpstreamBusy                503 upstream_busy
    │   ├── UpstreamTimeout             504 upstream_timeout
    │   ├── QuotaExhausted              429 quota_exhausted
    │   └── BillingExhausted            429 billing_exhausted           no credit left, or a spending cap reached
    ├── StorageError                  chats cannot be read or kept, or uploads not be buffered; `part` says where
    │   ├── StorageDamaged              500 storage_damaged
    │   ├── StorageUnavailable          503 storage_unavailable
    │   └── StorageFull                 507 storage_full
    ├── Overloaded                    503 overloaded
    ├── CallerLeft                    499 caller_left        nobody is there to be told
    ├── SlowReader                    499 slow_reader        nor is anybody here
    └── Internal                      500 internal

Every error has two texts: `detail` is a sentence for the caller, which may hold Gemini's own words and is not logged;
`cause` is for the log, never leaves the house, and never holds a key, a prompt or an image.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, Literal, Self

from app.domain.generation import Usage


@dataclass(frozen=True, slots=True)
class FieldError:
    """A field of the request, by its name on the wire, and what is wrong with it."""

    field: str
    message: str


class Again(Enum):
    """Whether the same call may be made again."""

    NEVER = "never"
    """It would change nothing, or cost again what may have been paid already."""
    SAFE = "safe"
    """Nothing was done and nothing billed."""
    ONCE = "once"
    """The call was on its way, and nobody knows what became of it: it may have been billed."""


class ServiceError(Exception):
    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    title: ClassVar[str] = "Something broke in this service"

    def __init__(self, detail: str, *, cause: str | None = None, retry_after: int | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.cause = cause
        self.retry_after = retry_after
        """Seconds to wait before the same request may succeed; it becomes the `Retry-After` header."""
        self.quote: str | None = None
        """What the other side said, word for word. It may quote prompts: logged only if the settings allow it."""
        self.attempts: int | None = None
        """How many calls to Gemini were made; `None` if it did not come to that."""
        self.again = Again.NEVER
        self.may_have_cost = False
        """Whether Google may bill for it, so that nobody should ask again unawares."""
        self.about: dict[str, Any] = {}
        """Further members of the problem document, about where it came up rather than what it is."""

    @property
    def discourages_retry(self) -> bool:
        """Whether the answer tells clients not to send the same request again (`X-Should-Retry: false`)."""
        return self.may_have_cost

    def members(self) -> dict[str, Any]:
        """What the problem document says beyond the members that every problem has."""
        return {}


class Internal(ServiceError):
    """A bug of this service. Its cause is an exception that nobody expected; the log says where it came from."""

    def __init__(self, *, cause: str | None = None, attempts: int = 0) -> None:
        """
        Args:
            cause: for the log, if there is no exception behind it.
            attempts: how many calls to Gemini had been made.
        """
        super().__init__("Something broke in this service; its log knows more.", cause=cause)
        self.attempts = attempts or None
        self.may_have_cost = attempts > 0


class CallerError(ServiceError):
    pass


class InvalidHttp(CallerError):
    status, code, title = 400, "invalid_http", "This is not HTTP that can be read"


class InvalidJson(CallerError):
    status, code, title = 400, "invalid_json", "The body is not JSON"


class InvalidForm(CallerError):
    status, code, title = 400, "invalid_form", "The body is not a form"

    def __init__(self, detail: str, errors: Sequence[FieldError] = (), *, cause: str | None = None) -> None:
        super().__init__(detail, cause=cause)
        self.errors = errors

    def members(self) -> dict[str, Any]:
        return {"errors": [{"field": one.field, "message": one.message} for one in self.errors]} if self.errors else {}


class Unauthorized(CallerError):
    status, code, title = 401, "unauthorized", "A key is required"


class ForbiddenOrigin(CallerError):
    """A web page of another site may not call this service from a browser."""

    status, code, title = 403, "forbidden_origin", "This page may not call the service"


class ForbiddenHost(CallerError):
    """Without keys, a request must be addressed to this machine by a name of its own, and come without a proxy."""

    status, code, title = 403, "forbidden_host", "Without keys only requests from this machine to itself are served"


class NotFound(CallerError):
    status, code, title = 404, "not_found", "There is nothing here"


class ChatNotFound(CallerError):
    """There is none, or it is somebody else's: nobody can tell which."""

    status, code, title = 404, "chat_not_found", "There is no such chat"


class TurnNotFound(CallerError):
    status, code, title = 404, "turn_not_found", "There is no such turn, or no image of it"


class TurnInProgress(CallerError):
    status, code, title = 409, "turn_in_progress", "Another turn of this chat is being made"


class TurnLost(CallerError):
    """The service was too slow for its own lease. What was drawn may have cost."""

    status, code, title = 409, "turn_lost", "The turn could not be kept"


class ChatLimitReached(CallerError):
    """The caller's chats are as many, or keep as many bytes, as the settings allow one caller. Nothing was paid."""

    status, code, title = 409, "chat_limit_reached", "You keep as many chats, or as many bytes, as you may"

    def __init__(self, detail: str, *, limit: Literal["chats", "bytes"], most: int) -> None:
        super().__init__(detail)
        self.limit = limit
        self.most = most

    @property
    def discourages_retry(self) -> bool:
        return True

    def members(self) -> dict[str, Any]:
        return {"limit": self.limit, "most": self.most}


class StaleTurn(CallerError):
    """The chat has gone on since the caller last looked."""

    status, code, title = 412, "stale_turn", "The chat has gone on"

    def __init__(self, detail: str, *, last_turn: int) -> None:
        super().__init__(detail)
        self.last_turn = last_turn

    def members(self) -> dict[str, Any]:
        return {"lastTurn": self.last_turn}


class MethodNotAllowed(CallerError):
    status, code, title = 405, "method_not_allowed", "Not with this method"

    def __init__(self, detail: str, *, allow: str) -> None:
        super().__init__(detail)
        self.allow = allow


class NotAcceptable(CallerError):
    status, code, title = 406, "not_acceptable", "The answer cannot be of that type"

    def __init__(self, detail: str, *, possible: tuple[str, ...]) -> None:
        super().__init__(detail)
        self.possible = possible

    def members(self) -> dict[str, Any]:
        return {"possible": list(self.possible)}


class SlowUpload(CallerError):
    status, code, title = 408, "slow_upload", "The body did not arrive in time"


class RangeNotSatisfiable(CallerError):
    status, code, title = 416, "range_not_satisfiable", "The file has no such range"

    def __init__(self, detail: str, *, size: int) -> None:
        super().__init__(detail)
        self.size = size


class TooLarge(CallerError):
    status, code, title = 413, "too_large", "Too large"


class UnsupportedMediaType(CallerError):
    status, code, title = 415, "unsupported_media_type", "The body is of a type this route does not read"


class UnsupportedImage(CallerError):
    status, code, title = 415, "unsupported_image", "Not an image that Gemini can use"


class HeaderTooLarge(CallerError):
    status, code, title = 431, "too_large", "A header is too long"


class InvalidRequest(CallerError):
    status, code, title = 422, "invalid_request", "The request is not valid"

    def __init__(self, errors: list[FieldError], *, cause: str | None = None) -> None:
        super().__init__(_joined(errors), cause=cause)
        self.errors = errors

    def rename(self, names: Mapping[str, str]) -> None:
        """Give fields the names that the caller knows them by; a form for instance has its own."""
        self.errors = [FieldError(names.get(error.field, error.field), error.message) for error in self.errors]
        self.detail = _joined(self.errors)

    def members(self) -> dict[str, Any]:
        return {"errors": [{"field": error.field, "message": error.message} for error in self.errors]}


def _joined(errors: list[FieldError]) -> str:
    return "; ".join(f"{error.field}: {error.message}" for error in errors)


class Refused(ServiceError):
    """Gemini answered 200 and drew nothing. Trying the same again costs money and changes nothing, so nobody should."""

    status = 422

    def __init__(
        self,
        detail: str,
        *,
        finish_reason: str | None = None,
        block_reason: str | None = None,
        text: str | None = None,
        model: str | None = None,
        usage: Usage | None = None,
    ) -> None:
        super().__init__(detail)
        self.finish_reason = finish_reason
        self.block_reason = block_reason
        self.text = text
        self.model = model
        self.usage = usage
        self.may_have_cost = True

    def members(self) -> dict[str, Any]:
        usage = self.usage and {
            "promptTokens": self.usage.prompt_tokens,
            "outputTokens": self.usage.output_tokens,
            "thoughtsTokens": self.usage.thoughts_tokens,
            "totalTokens": self.usage.total_tokens,
            "estimatedCostUsd": self.usage.estimated_cost_usd,
        }
        return {
            "image": None,
            "text": self.text,
            "finishReason": self.finish_reason,
            "blockReason": self.block_reason,
            "model": self.model,
            "usage": usage,
        }


class ContentBlocked(Refused):
    code, title = "content_blocked", "Gemini refused the content"


class Recitation(Refused):
    code, title = "recitation", "Gemini stopped because the image came too close to an existing work"


class NoImage(Refused):
    code, title = "no_image", "Gemini answered without an image"


class UpstreamError(ServiceError):
    status, code, title = 502, "upstream_error", "Gemini failed"

    asked_wait: int | None = None
    """Seconds that Gemini asked to wait, if it did; `retry_after` can be a guess of ours."""
    of_the_model = False
    """Whether it is the model that is short of something, so that another one may serve."""

    def to_be_tried(self, again: Again, asked_wait: int | None = None) -> Self:
        self.again, self.asked_wait = again, asked_wait
        self.may_have_cost = again is Again.ONCE
        return self


class UpstreamInvalidResponse(UpstreamError):
    code, title = "upstream_invalid_response", "Gemini's answer cannot be read"

    def __init__(self, detail: str, *, cause: str | None = None) -> None:
        super().__init__(detail, cause=cause)
        self.may_have_cost = True


class UpstreamRejectedCredentials(UpstreamError):
    code, title = "upstream_rejected_credentials", "Gemini does not accept this service's credentials"


class UnusableSignatures(UpstreamError):
    """A chat's thought signatures are of no use (any more). Without them it can go on all the same."""


class UpstreamBusy(UpstreamError):
    status, code, title = 503, "upstream_busy", "Gemini is busy"
    of_the_model = True


class UpstreamTimeout(UpstreamError):
    status, code, title = 504, "upstream_timeout", "Gemini did not answer in time"

    waited_for: str | None = None
    """What took too long: `queue`, `connection`, `first_byte`, `room`, `transfer`, or `retry`."""
    gemini_s = True
    """Whether it is Gemini that took too long: a caller's short patience says nothing about it."""

    def members(self) -> dict[str, Any]:
        return {"waitedFor": self.waited_for} if self.waited_for else {}


class QuotaExhausted(UpstreamError):
    status, code, title = 429, "quota_exhausted", "Gemini's quota for this service is used up"
    of_the_model = True

    def __init__(self, detail: str, *, scope: str | None, cause: str | None = None, retry_after: int | None = None):
        super().__init__(detail, cause=cause, retry_after=retry_after)
        self.scope = scope
        """`day` or `minute` where Gemini says which of its quotas it is."""

    def members(self) -> dict[str, Any]:
        return {"quota": self.scope}


class BillingExhausted(UpstreamError):
    """Google serves this account again only after its owner has paid, or raised a spending cap.

    It says nothing about the model: another model of the same account is refused as well.
    """

    status, code, title = 429, "billing_exhausted", "The Google account of this service has no money left to spend"

    @property
    def discourages_retry(self) -> bool:
        return True


class StorageError(ServiceError):
    def __init__(self, detail: str, *, part: str, cause: str | None = None, retry_after: int | None = None) -> None:
        """
        Args:
            detail: a sentence without paths or addresses.
            part: `database`, `blobs`, or `uploads`, which is the temporary folder.
            cause: for the log.
            retry_after: as ever.
        """
        super().__init__(detail, cause=cause, retry_after=retry_after)
        self.part = part

    def members(self) -> dict[str, Any]:
        return {"part": self.part}


class StorageDamaged(StorageError):
    """Something is gone that was there."""

    status, code, title = 500, "storage_damaged", "Something that was stored is missing"

    lost: object = None
    """The content that is missing."""


class StorageUnavailable(StorageError):
    status, code, title = 503, "storage_unavailable", "The storage cannot be reached"


class StorageFull(StorageError):
    status, code, title = 507, "storage_full", "The storage is full"


class Overloaded(ServiceError):
    """We have more to do than we take on at once, or are about to stop. Nothing was asked of Gemini."""

    status, code, title = 503, "overloaded", "This service is busy"


class CallerLeft(ServiceError):
    """Nobody reads this; the number is nginx's."""

    status, code, title = 499, "caller_left", "The caller left"


class SlowReader(ServiceError):
    """Somebody is there, but does not take the answer."""

    status, code, title = 499, "slow_reader", "The caller did not read the answer"
