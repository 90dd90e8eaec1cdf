"""What a generation goes through: how far it is, how long each stage took, what there is to tell on the way.

The layers below write into it as they go; logs, metrics, events and time limits read it.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from app.domain.generation import Image
from app.lib.byte_budget import Reservation

_CLOCK_SECONDS = 0.005


class Stage(StrEnum):
    QUEUE = "queue"
    """Waiting for a place."""
    FIRST_BYTE = "first_byte"
    """Gemini is being reached, and draws."""
    MEMORY_WAIT = "room"
    """Its answer is there, and waits until there is memory for it."""
    TRANSFER = "transfer"
    """Its answer arrives."""
    RETRY = "retry"
    """Waiting before another attempt."""
    RESPONSE = "answer"
    """Ours is on its way to the caller."""


@dataclass(frozen=True, slots=True)
class Started:
    """An attempt begins."""

    model: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Retrying:
    """An attempt has failed, and another one follows."""

    attempt: int
    wait_seconds: float
    reason: str


@dataclass(frozen=True, slots=True)
class Thought:
    text: str


@dataclass(frozen=True, slots=True)
class Draft:
    image: Image


ProgressEvent = Started | Retrying | Thought | Draft


class GenerationProgress:
    """One generation's. It begins when it is made, waiting for a place."""

    def __init__(
        self, seconds: float, share: Reservation, listener: Callable[[ProgressEvent], None] | None = None
    ) -> None:
        """
        Args:
            seconds: how long all of it may take, waiting and further attempts included.
            share: of the room for answers; held until ours has been delivered.
            listener: told of everything as it happens. With one, Gemini is asked for a stream.
        """
        self._loop = asyncio.get_running_loop()
        self._since = self._loop.time()
        self._listener = listener
        self.memory = share
        self.seconds = seconds
        self.deadline = self._since + seconds
        """In the event loop's time."""
        self.stage = Stage.QUEUE
        self.stage_seconds: defaultdict[Stage, float] = defaultdict(float)
        """Seconds by stage, of stages that are over."""
        self.calls_by_model: Counter[str] = Counter()
        """Calls to Gemini, by model."""
        self.ambiguous_failures = 0
        """Those of them that broke off on their way, and may have been billed."""
        self.received_bytes = 0
        """From Gemini, in the last attempt."""

    @property
    def is_streaming(self) -> bool:
        return self._listener is not None

    def notify(self, notice: ProgressEvent) -> None:
        if self._listener is not None:
            self._listener(notice)

    @property
    def attempts(self) -> int:
        return self.calls_by_model.total()

    def count(self, model: str) -> None:
        """One more call is made."""
        self.calls_by_model[model] += 1

    def take_back(self, model: str) -> None:
        """The call was none: its request broke off on our side, and Gemini never had all of it."""
        self.calls_by_model[model] -= 1

    def enter(self, stage: Stage) -> None:
        now = self._loop.time()
        self.stage_seconds[self.stage] += now - self._since
        self.stage, self._since = stage, now

    def in_stage(self) -> float:
        """Seconds since the present stage began."""
        return self._loop.time() - self._since

    def remaining(self) -> float:
        """Seconds until the deadline. Less than 5 ms counts as 0: uvloop's clock has milliseconds, and a timer that is
        set to the deadline may fire a little before it."""
        left = self.deadline - self._loop.time()
        return left if left >= _CLOCK_SECONDS else 0.0
