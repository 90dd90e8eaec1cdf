"""Bodies on their way in: bounded together, and in the time they take."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import Request
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope

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
        self._room = room
        self._stall = stall_seconds
        self._total = total_seconds

    @asynccontextmanager
    async def taking(self, scope: Scope, receive: Receive) -> AsyncGenerator[Receive]:
        """What to read the body with. Its bytes are held until the block ends.

        Raises:
            Overloaded: other bodies fill the room.
            SlowUpload: nothing arrives for too long, or not all of it in time.
        """
        share = Share(self._room)
        announced = int(length) if (length := Headers(scope=scope).get("content-length", "")).isdecimal() else 0
        self._hold(share, announced)
        arrived, more = 0, True
        deadline = asyncio.get_running_loop().time() + self._total

        async def received() -> Message:
            nonlocal arrived, more
            if not more:
                return await receive()  # that the caller has left, which may take as long as it likes
            try:
                async with asyncio.timeout_at(min(deadline, asyncio.get_running_loop().time() + self._stall)):
                    message = await receive()
            except TimeoutError as error:
                raise SlowUpload(f"No more of the body came for {self._stall:g} seconds, or not in time.") from error
            arrived += len(message.get("body", b""))
            more = message.get("more_body", False)
            self._hold(share, arrived)
            return message

        try:
            yield received
        finally:
            share.become(0)

    def _hold(self, share: Share, count: int) -> None:
        if count <= max(SMALL_BYTES, share.held):
            return
        if not self._room.fits(count - share.held):
            raise Overloaded("Other uploads take all the room there is.", retry_after=RETRY_AFTER_SECONDS)
        share.become(count)


def intake_of(request: Request) -> Intake:
    intake: Intake = request.state.intake
    return intake
