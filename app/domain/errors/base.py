"""The base class of all errors, and errors that neither the caller, Gemini nor the storage causes."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, Literal, Self


@dataclass(frozen=True, slots=True)
class FieldError:
    """An invalid field of the request, by its name on the wire, and what is wrong with it."""

    field: str
    message: str
    kind: Literal["invalid", "missing", "unknown", "unsupported"] = "invalid"
    """`unknown`: there is no such field. `unsupported`: the field exists, but Gemini has nothing like it."""


class RetrySafety(Enum):
    """Whether the same call to Gemini may be made again."""

    NEVER = "never"
    """Another call would give the same result, or would be billed twice."""
    SAFE = "safe"
    """Gemini did nothing and billed nothing."""
    ONCE = "once"
    """The call was sent and its result is unknown. It may have been billed."""


class ServiceError(Exception):
    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    title: ClassVar[str] = "This service failed"
    tells_not_to_retry: ClassVar[bool] = False
    """Whether clients are told not to repeat the request by themselves, although its status lets them."""

    def __init__(
        self,
        detail: str,
        *,
        cause: str | None = None,
        retry_after: int | None = None,
        may_have_cost: bool = False,
        extra_members: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.cause = cause
        self.retry_after = retry_after
        """Seconds after which the same request may succeed. Sent as the `Retry-After` header."""
        self.upstream_message: str | None = None
        """Gemini's own words. They may quote a prompt, so they are logged only if the settings allow it."""
        self.attempts: int | None = None
        """Calls made to Gemini; `None` if there were none. `GenerationRun.fail` sets it."""
        self.retry_safety = RetrySafety.NEVER
        self.may_have_cost = may_have_cost
        """Whether Google may bill for the request. Then clients must not send it again by themselves."""
        self.extra_members: Mapping[str, Any] = extra_members or {}
        """Further members of the problem document, such as the chat in which the error occurred."""
        self.request_id: str | None = None
        """The request in which the error occurred, if another request gets the same error again."""
        self.is_replay = False
        """Whether the error is the outcome of an earlier request."""

    def copied(self) -> Self:
        """Return an equal error without its traceback and its cause. Several requests may raise one each."""
        copy = type(self).__new__(type(self), *self.args)
        copy.__dict__.update(self.__dict__)
        return copy

    @property
    def discourages_retry(self) -> bool:
        """Whether the response tells clients not to send the same request again (`X-Should-Retry: false`)."""
        return self.may_have_cost or self.tells_not_to_retry

    def members(self) -> dict[str, Any]:
        """Return the members of the problem document that are specific to this class."""
        return {}


class Internal(ServiceError):
    """A bug of this service. Its cause is an unexpected exception; the log says where it was raised."""

    def __init__(self, *, cause: str | None = None) -> None:
        """
        Args:
            cause: for the log, if no exception caused it.
        """
        super().__init__("This service failed; its log has the reason.", cause=cause)


class Overloaded(ServiceError):
    """The service has no capacity for the request, or is about to stop."""

    status, code, title = 503, "overloaded", "This service is busy"


class CallerDisconnected(ServiceError):
    """The caller closed the connection, so the response is never read. nginx uses 499 for this too."""

    status, code, title = 499, "caller_left", "The caller disconnected"


class CallerTooSlow(ServiceError):
    """The caller is connected but does not read the response."""

    status, code, title = 499, "slow_reader", "The caller did not read the response"
