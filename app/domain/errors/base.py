"""The root of the errors, and those that are nobody's fault."""

from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class FieldError:
    """A field of the request, by its name on the wire, and what is wrong with it."""

    field: str
    message: str


class RetrySafety(Enum):
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
        self.upstream_message: str | None = None
        """What the other side said, word for word. It may quote prompts: logged only if the settings allow it."""
        self.attempts: int | None = None
        """How many calls to Gemini were made; `None` if it did not come to that."""
        self.retry_safety = RetrySafety.NEVER
        self.may_have_cost = False
        """Whether Google may bill for it, so that nobody should ask again unawares."""
        self.extra_members: dict[str, Any] = {}
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


class Overloaded(ServiceError):
    """We have more to do than we take on at once, or are about to stop. Nothing was asked of Gemini."""

    status, code, title = 503, "overloaded", "This service is busy"


class CallerDisconnected(ServiceError):
    """Nobody reads this; the number is nginx's."""

    status, code, title = 499, "caller_left", "The caller left"


class CallerTooSlow(ServiceError):
    """Somebody is there, but does not take the answer."""

    status, code, title = 499, "slow_reader", "The caller did not read the answer"
