"""Bodies on their way in: bounded together, and in the time they take."""

import asyncio
from collections import Counter

from starlette.types import Message, Receive, Scope

from app.api.http.middleware import content_length
from app.domain.errors import Overloaded, UploadTimeout
from app.lib.byte_budget import ByteBudget, Reservation

SMALL_BYTES = 64 * 1024
"""Below this a body does not count; a prompt is never what fills the memory."""

RETRY_AFTER_SECONDS = 10
"""What to tell who finds no room: about what an image takes, after which its references are let go."""


class UploadLimiter:
    """Takes bodies in as far as there is room for them.

    Room is taken as bytes arrive, not when they are announced: an upload that stalls keeps nobody from uploading. When
    the room is full, the caller who holds most of it loses an upload to one who holds less.
    """

    def __init__(self, room: ByteBudget, stall_seconds: float, total_seconds: float) -> None:
        """
        Args:
            room: what all bodies together may hold, from their arrival until their image is there.
            stall_seconds: how long a body may pause.
            total_seconds: how long it may take altogether.
        """
        self.room = room
        self.stall_seconds = stall_seconds
        self.total_seconds = total_seconds
        self.bodies: set[UploadBody] = set()

    def stop(self) -> None:
        """Take no more of the bodies that are arriving: their requests would be refused anyway."""
        for body in self.bodies:
            if body.arriving:
                body.refuse(Overloaded("This service is about to stop.", retry_after=1))

    def body(self, scope: Scope, receive: Receive, caller: str) -> "UploadBody":
        """A request's body, on its way in.

        Raises:
            Overloaded: it announces more than fits beside the bodies whose image is being made.
        """
        announced = content_length(scope) or 0
        complete = sum(body.held for body in self.bodies if not body.arriving)
        if announced > SMALL_BYTES and complete and complete + announced > self.room.limit:
            raise _no_room()
        return UploadBody(self, receive, caller)

    def make_room(self, for_: "UploadBody", count: int) -> None:
        """Make sure that `count` bytes more fit, refusing uploads of callers who hold more if need be.

        Raises:
            Overloaded: nobody whose upload is still arriving holds more than this caller does.
        """
        while self.room.used > for_.held and not self.room.fits(count):
            held: Counter[str] = Counter()
            for body in self.bodies:
                held[body.caller] += body.held
            largest = max(
                (body for body in self.bodies if body.arriving and body.held and body.caller != for_.caller),
                key=lambda body: (held[body.caller], body.held),
                default=None,
            )
            if largest is None or held[largest.caller] <= held[for_.caller] + count:
                raise _no_room()
            largest.refuse(_no_room())


class UploadBody:
    """One body. Its bytes are held until it is let go."""

    def __init__(self, upload_limiter: UploadLimiter, receive: Receive, caller: str) -> None:
        self.caller = caller
        self.arriving = True
        self._upload_limiter = upload_limiter
        self._receive = receive
        self._share = Reservation(upload_limiter.room)
        self._holders = 1
        self._arrived = 0
        self._deadline = asyncio.get_running_loop().time() + upload_limiter.total_seconds
        self._limit: asyncio.Timeout | None = None
        self._refusal: Overloaded | None = None
        upload_limiter.bodies.add(self)

    @property
    def held(self) -> int:
        return self._share.held

    async def receive(self) -> Message:
        """What ASGI's `receive` is.

        Raises:
            Overloaded: other bodies fill the room, or the service is about to stop.
            UploadTimeout: nothing arrives for too long, or not all of it in time.
        """
        if not self.arriving:
            return await self._receive()  # that the caller has left, which may take as long as it likes
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
        now = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout_at(min(self._deadline, now + self._upload_limiter.stall_seconds)) as self._limit:
                return await self._receive()
        except TimeoutError as error:
            if self._refusal is not None:
                raise self._refusal from error
            raise UploadTimeout(
                f"No more of the body came for {self._upload_limiter.stall_seconds:g} seconds, or too slowly."
            ) from error
        finally:
            self._limit = None

    def refuse(self, error: Overloaded) -> None:
        """Take no more of it, and count what is there no longer: whoever reads it gets the error at once."""
        self._refusal = error
        self._share.resize(0)
        if self._limit is not None and not self._limit.expired():
            self._limit.reschedule(asyncio.get_running_loop().time())

    def retain(self) -> None:
        """One more needs its bytes, and has to let go of them, too."""
        self._holders += 1

    def release(self) -> None:
        self._holders -= 1
        if not self._holders:
            self._upload_limiter.bodies.discard(self)
            self._share.resize(0)

    def _hold(self, count: int) -> None:
        if count <= max(SMALL_BYTES, self.held):
            return
        self._upload_limiter.make_room(self, count - self.held)
        self._share.resize(count)


def _no_room() -> Overloaded:
    return Overloaded("Other uploads take all the room there is.", retry_after=RETRY_AFTER_SECONDS)
