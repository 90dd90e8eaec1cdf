"""Failures that the caller can do something about."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from app.domain.errors.base import FieldError, ServiceError


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


class LeaseLost(CallerError):
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
