"""Errors that the caller can correct."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from app.domain.errors.base import FieldError, ServiceError


class CallerError(ServiceError):
    pass


class InvalidHttp(CallerError):
    status, code, title = 400, "invalid_http", "The request is not valid HTTP"


class InvalidJson(CallerError):
    status, code, title = 400, "invalid_json", "The body is not JSON"


class InvalidForm(CallerError):
    status, code, title = 400, "invalid_form", "The body is not a form"

    def __init__(self, detail: str, errors: Sequence[FieldError] = (), *, cause: str | None = None) -> None:
        super().__init__(detail, cause=cause)
        self.errors = errors

    def members(self) -> dict[str, Any]:
        return {"errors": _members(self.errors)} if self.errors else {}


class Unauthorized(CallerError):
    status, code, title = 401, "unauthorized", "A key is required"


class ForbiddenOrigin(CallerError):
    """A web page of another site may not call this service from a browser."""

    status, code, title = 403, "forbidden_origin", "This page may not call the service"


class ForbiddenHost(CallerError):
    """Without keys, a request must be addressed to loopback and must not come through a proxy."""

    status, code, title = 403, "forbidden_host", "Without keys only requests from this machine to itself are served"


class NotFound(CallerError):
    status, code, title = 404, "not_found", "There is nothing here"


class ModelNotFound(CallerError):
    status, code, title = 404, "model_not_found", "There is no such model"


class ChatNotFound(CallerError):
    """The chat does not exist or belongs to another caller. The response does not say which."""

    status, code, title = 404, "chat_not_found", "There is no such chat"


class TurnNotFound(CallerError):
    status, code, title = 404, "turn_not_found", "There is no such turn, or no image of it"


class GenerationNotFound(CallerError):
    """The generation does not exist or belongs to another caller. The response does not say which."""

    status, code, title = 404, "generation_not_found", "There is no such generation"


class ImageNotFound(CallerError):
    status, code, title = 404, "image_not_found", "This generation has no image"


class KeyNotFound(CallerError):
    status, code, title = 404, "key_not_found", "There is no such key"


class KeyExists(CallerError):
    status, code, title = 409, "key_exists", "There is a key with this name"


class InvalidLink(CallerError):
    """The signature of a link is not the one that this service makes for it."""

    status, code, title = 403, "invalid_link", "The signature of this link is not valid"


class ExpiredLink(CallerError):
    status, code, title = 403, "expired_link", "This link has expired"


class GenerationInProgress(CallerError):
    """The caller's time limit has ended, and the generation has not."""

    status, code, title = 409, "in_progress", "The image is still being made"
    tells_not_to_retry = True

    def __init__(self, detail: str, *, location: str, retry_after: int, may_have_cost: bool = False) -> None:
        """
        Args:
            detail: a sentence for the caller.
            location: path of the generation.
            retry_after: seconds after which to ask again.
            may_have_cost: whether the same request would buy another image, because it has no key.
        """
        super().__init__(detail, retry_after=retry_after, may_have_cost=may_have_cost)
        self.location = location


class AlreadyAsked(CallerError):
    """Gemini has been asked, so the image will be paid for and kept."""

    status, code, title = 409, "already_asked", "The image is already being made"


class GenerationCancelled(CallerError):
    """The generation was deleted before Gemini was asked."""

    status, code, title = 409, "cancelled", "This generation was cancelled"
    tells_not_to_retry = True


class TurnInProgress(CallerError):
    status, code, title = 409, "turn_in_progress", "Another turn of this chat is being made"


class LeaseLost(CallerError):
    """The chat's lease expired before the turn was saved. The image may have been paid for."""

    status, code, title = 409, "turn_lost", "The turn could not be saved"


class ChatLimitReached(CallerError):
    """The caller's chats have reached the limit of their number or their bytes. Nothing was paid."""

    status, code, title = 409, "chat_limit_reached", "The limit for your stored chats is reached"
    tells_not_to_retry = True

    def __init__(self, detail: str, *, limit: Literal["chats", "bytes"], most: int) -> None:
        super().__init__(detail)
        self.limit = limit
        self.most = most

    def members(self) -> dict[str, Any]:
        return {"limit": self.limit, "most": self.most}


class StaleTurn(CallerError):
    """The turn that the caller names is not the latest one of the chat."""

    status, code, title = 412, "stale_turn", "The turn that you named is not the latest"

    def __init__(self, detail: str, *, last_turn: int) -> None:
        super().__init__(detail)
        self.last_turn = last_turn

    def members(self) -> dict[str, Any]:
        return {"lastTurn": self.last_turn}


class MethodNotAllowed(CallerError):
    status, code, title = 405, "method_not_allowed", "This method is not allowed here"

    def __init__(self, detail: str, *, allow: str) -> None:
        super().__init__(detail)
        self.allow = allow


class NotAcceptable(CallerError):
    status, code, title = 406, "not_acceptable", "The response cannot have an accepted type"

    def __init__(
        self, detail: str, *, possible: tuple[str, ...], extra_members: Mapping[str, Any] | None = None
    ) -> None:
        """
        Args:
            detail: a sentence for the caller.
            possible: media types that the response could have.
            extra_members: where the image is stored, if it is.
        """
        super().__init__(detail, extra_members=extra_members)
        self.possible = possible

    def members(self) -> dict[str, Any]:
        return {"possible": list(self.possible)}


class UploadTimeout(CallerError):
    status, code, title = 408, "slow_upload", "The body did not arrive in time"


class RangeNotSatisfiable(CallerError):
    status, code, title = 416, "range_not_satisfiable", "The file has no such range"

    def __init__(self, detail: str, *, size: int) -> None:
        super().__init__(detail)
        self.size = size


class TooLarge(CallerError):
    status, code, title = 413, "too_large", "Too large"


class UnsupportedMediaType(CallerError):
    status, code, title = 415, "unsupported_media_type", "This route does not accept the body's media type"


class UnsupportedImage(CallerError):
    status, code, title = 415, "unsupported_image", "Gemini does not accept this image"


class HeaderTooLarge(CallerError):
    status, code, title = 431, "too_large", "A header is too long"


class InvalidRequest(CallerError):
    status, code, title = 422, "invalid_request", "The request is not valid"

    def __init__(self, errors: Sequence[FieldError], *, cause: str | None = None) -> None:
        super().__init__("; ".join(f"{error.field}: {error.message}" for error in errors), cause=cause)
        self.errors = errors

    def renamed(self, names: Mapping[str, str]) -> "InvalidRequest":
        """Return the error with other field names.

        Args:
            names: new names by the present ones.
        """
        errors = [replace(error, field=names.get(error.field, error.field)) for error in self.errors]
        renamed = InvalidRequest(errors, cause=self.cause)
        renamed.upstream_message = self.upstream_message
        renamed.attempts, renamed.may_have_cost = self.attempts, self.may_have_cost
        return renamed

    def members(self) -> dict[str, Any]:
        return {"errors": _members(self.errors)}


class IdempotencyKeyReused(CallerError):
    """Another request was sent with the same key. Nothing was asked."""

    status, code, title = 422, "idempotency_key_reused", "This Idempotency-Key belongs to another request"
    tells_not_to_retry = True


class WebhookRefused(CallerError):
    """The service does not call this address."""

    status, code, title = 422, "webhook_refused", "This service does not call this webhook"


def _members(errors: Sequence[FieldError]) -> list[dict[str, str]]:
    return [{"field": error.field, "message": error.message} for error in errors]
