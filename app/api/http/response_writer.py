"""Sending to a caller who may be slow, or gone: neither may hold what others wait for."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

from starlette.types import Message, Receive, Scope, Send

from app.domain.errors import CallerDisconnected, CallerTooSlow, ServiceError
from app.lib.scheduler import FairScheduler

CONNECTION = "app.connection"
"""Name of the scope extension that knows a request's connection; `app/server/protocol.py` adds it."""


class ConnectionControl(Protocol):
    """What a server can tell and do that ASGI has no words for."""

    @property
    def is_write_paused(self) -> bool:
        """Whether sending more has to wait until the caller has taken something."""
        ...

    @property
    def cut_off(self) -> bool:
        """Whether the server has cut the connection because the caller did not read."""
        ...

    def abort(self) -> None:
        """End the connection at once, and forget what waits."""
        ...


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """How answers are sent."""

    scheduler: FairScheduler
    most_seconds: float
    """For all of an answer. How long a caller may read nothing is limited by the server."""
    failed: Callable[[ServiceError], None]
    """Told of an answer that did not arrive."""


class ResponseWriter:
    """One answer's way out."""

    def __init__(self, scope: Scope, send: Send, options: WriteOptions) -> None:
        """
        Args:
            scope: the request's.
            send: the server's.
            options: how to send.
        """
        self._send = send
        self._end = asyncio.get_running_loop().time() + options.most_seconds
        self._connection = _connection(scope)

    async def start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Send status and headers. See `send`."""
        await self._put({"type": "http.response.start", "status": status, "headers": list(headers)})

    async def send(self, body: bytes) -> None:
        """Send the next piece, once there is room for it.

        Raises:
            CallerTooSlow: nothing was taken for too long, or all of it takes too long; the connection is cut.
        """
        await self._put({"type": "http.response.body", "body": body, "more_body": True})

    async def send_all(self, pieces: AsyncIterator[bytes], receive: Receive) -> None:
        """Send the pieces, as long as somebody is there.

        Raises:
            CallerTooSlow, CallerDisconnected: not all of it was taken.
        """
        async with disconnect_watcher(receive) as gone:
            async for piece in pieces:
                self._require_reader()
                if gone.done():
                    raise CallerDisconnected("The caller left in the middle of the answer.")
                await self.send(piece)

    async def end(self) -> None:
        """That was all. See `send`."""
        await self._put({"type": "http.response.body", "body": b""})

    async def _put(self, message: Message) -> None:
        if self._connection is not None and not self._connection.is_write_paused:
            await self._send(message)  # at once: there is nothing to limit
        else:
            try:
                # The server waits for room first and writes then: cut short, it has written nothing.
                async with asyncio.timeout_at(self._end):
                    await self._send(message)
            except TimeoutError:
                if self._connection is not None:
                    self._connection.abort()
                    await asyncio.sleep(0)  # until the server has noticed
                raise CallerTooSlow("The caller did not read the answer in time.") from None
        self._require_reader()

    def _require_reader(self) -> None:
        if self._connection is not None and self._connection.cut_off:
            raise CallerTooSlow("The caller did not read the answer.")


def why_gone(scope: Scope) -> CallerDisconnected | CallerTooSlow:
    """Why the caller of a request is no longer there."""
    connection = _connection(scope)
    if connection is not None and connection.cut_off:
        return CallerTooSlow("The caller did not read the answer.")
    return CallerDisconnected("The caller left before the image was there.")


def _connection(scope: Scope) -> ConnectionControl | None:
    connection: ConnectionControl | None = scope.get("extensions", {}).get(CONNECTION, {}).get("connection")
    return connection


async def wait_until_gone(receive: Receive, scope: Scope) -> CallerDisconnected | CallerTooSlow:
    """Return once the caller has disconnected, with the error to raise then. The body must have been read."""
    await _gone(receive)
    return why_gone(scope)


@asynccontextmanager
async def disconnect_watcher(receive: Receive) -> AsyncGenerator[asyncio.Task[None]]:
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
