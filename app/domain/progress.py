"""Progress of one generation: its stage, the duration of each stage, the calls to Gemini, and events for the caller.

The service and the Gemini client write it; logs, metrics, event streams and time limits read it.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum

from app.domain.generation import Image, Usage
from app.lib.byte_budget import Reservation

_CLOCK_SECONDS = 0.005
"""Resolution of the clock: uvloop's has milliseconds, and a timer may fire a little before its time."""


class Stage(StrEnum):
    QUEUE = "queue"
    """Waiting for a slot."""
    FIRST_BYTE = "first_byte"
    """Connecting to Gemini and waiting for its response, which begins when the image is drawn."""
    MEMORY_WAIT = "memory_wait"
    """Gemini's response has begun. It waits for the memory budget before it is read."""
    TRANSFER = "transfer"
    """Reading Gemini's response."""
    RETRY = "retry"
    """Waiting before a retry."""
    CONVERSION = "conversion"
    """Converting the images to the format that the caller asks for, and waiting for memory and a thread for it."""
    RESPONSE = "response"
    """Sending the response to the caller."""


@dataclass(frozen=True, slots=True)
class Started:
    """An attempt has begun."""

    model: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Retrying:
    """An attempt has failed, and a retry follows."""

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
    """Progress of one generation. It starts in the stage `QUEUE` when it is created."""

    def __init__(
        self,
        seconds: float,
        memory: Reservation,
        listener: Callable[[ProgressEvent], None] | None = None,
        before_call: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """
        Args:
            seconds: time limit for the generation, including the queue and retries.
            memory: reservation for Gemini's response. It is held until the response to the caller has been sent.
            listener: receives progress events. With a listener, Gemini is asked for a stream.
            before_call: awaited before each call to Gemini. If it raises an error, Gemini is not called.
        """
        self._loop = asyncio.get_running_loop()
        self._since = self._loop.time()
        self._listener = listener
        self._before_call = before_call
        self.memory = memory
        self.seconds = seconds
        self.deadline = self._since + seconds
        """By the event loop's clock, in seconds."""
        self.stage = Stage.QUEUE
        self.stage_seconds: defaultdict[Stage, float] = defaultdict(float)
        """Seconds spent in each stage that has ended."""
        self.calls_by_model: Counter[str] = Counter()
        """Calls to Gemini by model."""
        self.ambiguous_failures = 0
        """Calls that broke off after they were sent, and may have been billed."""
        self.received_bytes = 0
        """Bytes that Gemini sent in the last attempt."""
        self.usage: Usage | None = None
        """Tokens and cost of Gemini's answer, also of a refusal; `None` until there is one."""

    @property
    def is_streaming(self) -> bool:
        return self._listener is not None

    def notify(self, event: ProgressEvent) -> None:
        if self._listener is not None:
            self._listener(event)

    async def begin_call(self, model: str) -> None:
        """Count a call that begins, once it may."""
        if self._before_call is not None:
            await self._before_call()
        self.calls_by_model[model] += 1

    @property
    def attempts(self) -> int:
        return self.calls_by_model.total()

    def take_back(self, model: str) -> None:
        """Uncount a call: its request could not be completed here, so Gemini did not get all of it."""
        self.calls_by_model[model] -= 1

    def enter(self, stage: Stage) -> None:
        now = self._loop.time()
        self.stage_seconds[self.stage] += now - self._since
        self.stage, self._since = stage, now

    def in_stage(self) -> float:
        """Return the seconds since the current stage began."""
        return self._loop.time() - self._since

    def remaining(self) -> float:
        """Return the seconds until the deadline; 0 if they are fewer than the clock can measure."""
        left = self.deadline - self._loop.time()
        return left if left >= _CLOCK_SECONDS else 0.0
