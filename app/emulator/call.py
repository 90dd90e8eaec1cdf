"""A request that the emulator has received."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Call:
    """A request that a client has sent. All keys of its body are in camelCase."""

    model: str
    method: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any]
