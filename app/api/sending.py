"""Sending to a caller who may be slow, or gone: neither may hold what others wait for."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from starlette.types import Receive, Scope, Send

from app.errors import CallerLeft, ServiceError, SlowReader
from app.pace import Pace

ABORT = "app.abort"
"""Name of the scope extension that ends a request's connection at once; `app/server.py` brings it."""


@dataclass(frozen=True, slots=True)
class Sending:
    """How answers are sent."""

    pace: Pace
    patience: float
    """Seconds for which a reader may take nothing."""
    failed: Callable[[ServiceError], None]
    """Told of an answer that did not arrive."""


class Sender:
    """One answer's way out."""

    def __init__(self, scope: Scope, send: Send, patience: float) -> None:
        """
        Args:
            scope: the request's.
            send: the server's.
            patience: seconds for which a reader may take nothing.
        """
        self._send = send
        self._patience = patience
        self._abort = scope.get("extensions", {}).get(ABORT, {}).get("abort")

    async def start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        await self._send({"type": "http.response.start", "status": status, "headers": list(headers)})

    async def send(self, body: bytes) -> None:
        """Send the next piece, once the ones before have been taken.

        Raises:
            SlowReader: nothing was taken for too long; the connection is cut.
        """
        try:
            async with asyncio.timeout(self._patience):
                await self._send({"type": "http.response.body", "body": body, "more_body": True})
        except TimeoutError as error:
            if self._abort is not None:
                self._abort()
                await asyncio.sleep(0)  # until the server has noticed
            raise SlowReader(f"The caller took nothing of the answer for {self._patience:g} seconds.") from error

    async def send_all(self, pieces: AsyncIterator[bytes], receive: Receive) -> None:
        """Send the pieces, as long as somebody is there.

        Raises:
            SlowReader, CallerLeft: not all of it was taken.
        """
        async with until_gone(receive) as gone:
            async for piece in pieces:
                if gone.done():
                    raise CallerLeft("The caller left in the middle of the answer.")
                await self.send(piece)

    async def end(self) -> None:
        await self._send({"type": "http.response.body", "body": b""})


@asynccontextmanager
async def until_gone(receive: Receive) -> AsyncGenerator[asyncio.Task[None]]:
    """A task that is done once the caller has left, for the length of the block."""
    gone = asyncio.create_task(_gone(receive))
    try:
        yield gone
    finally:
        gone.cancel()
        with suppress(asyncio.CancelledError):
            await gone


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
