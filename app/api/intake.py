"""Bodies on their way in: bounded together, and in the time they take."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import Request
from starlette.types import Message, Receive, Scope

from app.api.edge import announced_length
from app.errors import Overloaded, SlowUpload
from app.room import Room, Share

SMALL_BYTES = 64 * 1024
"""Below this a body does not count; a prompt is never what fills the memory."""

RETRY_AFTER_SECONDS = 10
"""What to tell who finds no room: about what an image takes, after which its references are let go."""


class Intake:
    """Takes bodies in as far as there is room for them."""

    def __init__(self, room: Room, stall_seconds: float, total_seconds: float) -> None:
        """
        Args:
            room: what all bodies together may hold, from their arrival until their image is there.
            stall_seconds: how long a body may pause.
            total_seconds: how long it may take altogether.
        """
        self.room = room
        self.stall_seconds = stall_seconds
        self.total_seconds = total_seconds
        self.stopping = False
        self._arriving: set[asyncio.Timeout] = set()

    @contextmanager
    def while_arriving(self, limit: asyncio.Timeout) -> Iterator[None]:
        """A piece is waited for inside the block, until `limit`, or until no more is taken."""
        self._arriving.add(limit)
        try:
            yield
        finally:
            self._arriving.discard(limit)

    def stop(self) -> None:
        """Take no more of the bodies that are arriving: their requests would be refused anyway."""
        self.stopping = True
        for limit in self._arriving:
            if not limit.expired():
                limit.reschedule(asyncio.get_running_loop().time())

    def body(self, scope: Scope, receive: Receive) -> "Body":
        """A request's body, on its way in.

        Raises:
            Overloaded: other bodies fill the room.
        """
        return Body(self, scope, receive)


class Body:
    """One body. Its bytes are held until it is let go."""

    def __init__(self, intake: Intake, scope: Scope, receive: Receive) -> None:
        self._intake = intake
        self._receive = receive
        self._share = Share(intake.room)
        self._holders = 1
        self._arrived, self._more = 0, True
        self._deadline = asyncio.get_running_loop().time() + intake.total_seconds
        self._hold(announced_length(scope) or 0)

    async def receive(self) -> Message:
        """What ASGI's `receive` is.

        Raises:
            Overloaded: other bodies fill the room, or the service is about to stop.
            SlowUpload: nothing arrives for too long, or not all of it in time.
        """
        if not self._more:
            return await self._receive()  # that the caller has left, which may take as long as it likes
        intake, now = self._intake, asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout_at(min(self._deadline, now + intake.stall_seconds)) as limit:
                with intake.while_arriving(limit):
                    message = await self._receive()
        except TimeoutError as error:
            if intake.stopping:
                raise Overloaded("This service is about to stop.", retry_after=1) from error
            raise SlowUpload(
                f"No more of the body came for {intake.stall_seconds:g} seconds, or too slowly."
            ) from error
        self._arrived += len(message.get("body", b""))
        self._more = message.get("more_body", False)
        self._hold(self._arrived)
        return message

    def hold_on(self) -> None:
        """One more needs its bytes, and has to let go of them, too."""
        self._holders += 1

    def let_go(self) -> None:
        self._holders -= 1
        if not self._holders:
            self._share.become(0)

    def _hold(self, count: int) -> None:
        if count <= max(SMALL_BYTES, self._share.held):
            return
        room = self._intake.room
        alone = room.held == self._share.held
        if not alone and not room.fits(count - self._share.held):
            raise Overloaded("Other uploads take all the room there is.", retry_after=RETRY_AFTER_SECONDS)
        self._share.become(count)


def intake_of(request: Request) -> Intake:
    intake: Intake = request.state.intake
    return intake
