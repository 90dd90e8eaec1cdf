"""Who sends a request."""

from dataclasses import dataclass

from app.domain.limits import UNLIMITED, Limits

LOCAL, ANONYMOUS = UNKEYED_NAMES = ("local", "anonymous")
"""Names of callers without keys: from the same machine, and from everywhere."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The sender of a request. Slots, limits, chats and generations are shared or separated by its name."""

    name: str
    keyed: bool = False
    """Whether a key has authenticated the caller. Without keys all callers have the same name."""
    limits: Limits = UNLIMITED
    end_user: str | None = None
    """For whom a gateway sends the request, if the key's usage is to be kept by end user."""

    @property
    def owner(self) -> str:
        """Owner id of all that is stored. The prefix `key:` keeps a key that is named like the anonymous caller
        apart."""
        return f"key:{self.name}" if self.keyed else self.name
