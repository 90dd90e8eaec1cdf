"""Limits for request bodies while they arrive: memory for all of them together, and time for each."""

import asyncio
from collections import Counter

from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope

from app.domain.errors import Overloaded, UploadTimeout
from app.lib.byte_budget import ByteBudget, Reservation

SMALL_BYTES = 64 * 1024
"""A body up to this size is not counted: prompts do not fill the memory."""

RETRY_AFTER_SECONDS = 10
"""`Retry-After` for rejected uploads: about one generation, after which its memory is released."""


def content_length(scope: Scope) -> int | None:
    """Return the `Content-Length` of a request in bytes; `None` if there is none or it is not a number."""
    value = Headers(scope=scope).get("content-length", "").lstrip("0")[:20]
    return int(value) if value.isdecimal() else None


class UploadLimiter:
    """Limits the memory of all request bodies together.

    Bytes are counted when they arrive, not when `Content-Length` announces them, so a stalled upload does not block
    others. When the memory is full, the caller with the most bytes loses an upload to a caller with fewer.
    """

    def __init__(self, memory: ByteBudget, stall_seconds: float, total_seconds: float) -> None:
        """
        Args:
            memory: for all bodies together, from their arrival until their image is generated.
            stall_seconds: the longest pause within a body.
            total_seconds: time limit for a whole body.
        """
        self.memory = memory
        self.stall_seconds = stall_seconds
        self.total_seconds = total_seconds
        self.bodies: set[UploadBody] = set()

    def stop(self) -> None:
        """Refuse the bodies that are still arriving. A stopping service would refuse their requests anyway."""
        for body in self.bodies:
            if body.arriving:
                body.refuse(Overloaded("This service is about to stop.", retry_after=1))

    def body(self, scope: Scope, receive: Receive, caller: str) -> "UploadBody":
        """Return the body of a request, which has not been read yet.

        Raises:
            Overloaded: its `Content-Length` does not fit beside the complete bodies whose image is being generated.
        """
        announced = content_length(scope) or 0
        complete = sum(body.held for body in self.bodies if not body.arriving)
        if announced > SMALL_BYTES and complete and complete + announced > self.memory.limit:
            raise _memory_full()
        return UploadBody(self, receive, caller)

    def make_space(self, body: "UploadBody", count: int) -> None:
        """Make sure that `count` more bytes of `body` fit; if needed, refuse uploads of callers who hold more.

        Raises:
            Overloaded: no other caller with an arriving upload holds more than this caller.
        """
        while self.memory.used > body.held and not self.memory.fits(count):
            held: Counter[str] = Counter()
            for other in self.bodies:
                held[other.caller] += other.held
            largest = max(
                (other for other in self.bodies if other.arriving and other.held and other.caller != body.caller),
                key=lambda other: (held[other.caller], other.held),
                default=None,
            )
            if largest is None or held[largest.caller] <= held[body.caller] + count:
                raise _memory_full()
            largest.refuse(_memory_full())


class UploadBody:
    """One request body. Its bytes count until every holder has called `release`; the first holder is the route."""

    def __init__(self, limiter: UploadLimiter, receive: Receive, caller: str) -> None:
        self.caller = caller
        self.arriving = True
        self._limiter = limiter
        self._receive = receive
        self._memory = Reservation(limiter.memory)
        self._holders = 1
        self._arrived = 0
        self._deadline = asyncio.get_running_loop().time() + limiter.total_seconds
        self._timeout: asyncio.Timeout | None = None
        self._refusal: Overloaded | None = None
        limiter.bodies.add(self)

    @property
    def held(self) -> int:
        """The bytes that are counted."""
        return self._memory.held

    async def receive(self) -> Message:
        """Return the next ASGI message.

        Raises:
            Overloaded: the memory for uploads is full, or the service is about to stop.
            UploadTimeout: the body pauses for too long, or takes too long in all.
        """
        if not self.arriving:
            return await self._receive()  # waits for the disconnect, without a time limit
        message = await self._next()
        if self._refusal is not None:
            raise self._refusal
        self._arrived += len(message.get("body", b""))
        self.arriving = message.get("more_body", False)
        self._hold(self._arrived)
        return message

    async def _next(self) -> Message:
        if self._refusal is not None:
            raise self._refusal
        stall_seconds = self._limiter.stall_seconds
        now = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout_at(min(self._deadline, now + stall_seconds)) as self._timeout:
                return await self._receive()
        except TimeoutError as error:
            if self._refusal is not None:
                raise self._refusal from error
            raise UploadTimeout(f"The body stopped for {stall_seconds:g} seconds, or arrived too slowly.") from error
        finally:
            self._timeout = None

    def refuse(self, error: Overloaded) -> None:
        """Stop counting the bytes, and raise `error` at once from `receive`."""
        self._refusal = error
        self._memory.resize(0)
        if self._timeout is not None and not self._timeout.expired():
            self._timeout.reschedule(asyncio.get_running_loop().time())

    def retain(self) -> None:
        """Add a holder, which must call `release`."""
        self._holders += 1

    def release(self) -> None:
        """Remove a holder. Without holders the bytes no longer count."""
        self._holders -= 1
        if not self._holders:
            self._limiter.bodies.discard(self)
            self._memory.resize(0)

    def _hold(self, count: int) -> None:
        if count <= max(SMALL_BYTES, self.held):
            return
        self._limiter.make_space(self, count - self.held)
        self._memory.resize(count)


def _memory_full() -> Overloaded:
    return Overloaded("Other uploads take all the memory for uploads.", retry_after=RETRY_AFTER_SECONDS)
