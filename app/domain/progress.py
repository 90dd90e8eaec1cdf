"""Progress of one generation: its stage, the duration of each stage, the calls to Gemini, and events for the caller.

The service and the Gemini client write it; logs, metrics, event streams and time limits read it.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from app.domain.generation import Image, Usage
from app.domain.spending import micro_usd
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


class CallGuard(Protocol):
    """Decides on the calls to Gemini of one image."""

    async def before_call(self) -> None:
        """Called before each call to Gemini. If it raises an error, Gemini is not called."""
        ...

    async def allows_repetition(self) -> bool:
        """Return whether a call may be repeated that may have been billed."""
        ...


class GenerationProgress:
    """Progress of one generation. It starts in the stage `QUEUE` when it is created."""

    def __init__(
        self,
        seconds: float,
        memory: Reservation,
        listener: Callable[[ProgressEvent], None] | None = None,
        guard: CallGuard | None = None,
    ) -> None:
        """
        Args:
            seconds: time limit for the generation, including the queue and retries.
            memory: reservation for Gemini's response. It is held until the response to the caller has been sent.
            listener: receives progress events. With a listener, Gemini is asked for a stream.
            guard: decides on the calls to Gemini.
        """
        self._loop = asyncio.get_running_loop()
        self._since = self._loop.time()
        self._listener = listener
        self._guard = guard
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
        self.unknown_calls = 0
        """Calls that may have been billed, or may still be, and whose cost is not known."""
        self.micro_usd = 0
        """Known cost of all calls in micro-dollars."""
        self.answered_by: str | None = None
        """The model that has made the image or refused."""
        self.tokens = 0
        """Tokens of all calls, as far as Gemini has reported them."""
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
        if self._guard is not None:
            await self._guard.before_call()
        self.calls_by_model[model] += 1
        self.unknown_calls += 1

    async def allows_repetition(self) -> bool:
        """Return whether a call may be repeated that may have been billed."""
        return self._guard is None or await self._guard.allows_repetition()

    def note_free_call(self) -> None:
        """Note that the last call has certainly cost nothing."""
        self.unknown_calls -= 1

    def note_usage(self, model: str, usage: Usage | None) -> None:
        """Note what Gemini has reported of the last call; `None` if it has reported nothing."""
        self.answered_by = model
        cost = micro_usd(usage)
        if usage is not None:
            self.tokens += usage.total_tokens
        if cost is not None:
            self.micro_usd += cost
            self.unknown_calls -= 1

    @property
    def attempts(self) -> int:
        return self.calls_by_model.total()

    def take_back(self, model: str) -> None:
        """Uncount a call: its request could not be completed here, so Gemini did not get all of it."""
        self.calls_by_model[model] -= 1
        self.unknown_calls -= 1

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
