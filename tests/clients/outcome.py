"""The outcome of one call of a client library, in Python or Node: the value that it returns, or the error that it
raises, as JSON."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """The result of one call. Exactly one of the two is set."""

    value: Any = None
    error: dict[str, Any] | None = None

    def succeeded(self) -> Any:
        """Return the value. Raise AssertionError if the call failed."""
        assert self.error is None, self.error
        return self.value

    def failed(self, name: str, status: int) -> dict[str, Any]:
        """Return the error. Raise AssertionError if the library raised another one, or none."""
        assert self.error is not None, f"no {name}: {str(self.value)[:300]}"
        assert (self.error["name"], self.error.get("status")) == (name, status), self.error
        return self.error
