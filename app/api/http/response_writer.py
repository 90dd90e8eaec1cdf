"""Writing a response to a caller who may read slowly, or disconnect, without holding memory for longer than needed."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any, Protocol, TypeVar

from starlette.types import Message, Receive, Scope, Send

from app.domain.errors import CallerDisconnected, CallerTooSlow

_T = TypeVar("_T")

CONNECTION = "app.connection"
"""Name of the ASGI extension that holds a request's `ConnectionControl`. `app/server/protocol.py` adds it."""


class ConnectionControl(Protocol):
    """What a response needs to know of its connection and ASGI does not offer."""

    @property
    def is_write_paused(self) -> bool:
        """True while the server's write buffer is full, so that `send` would wait."""
        ...

    @property
    def cut_off(self) -> bool:
        """True if the server has closed the connection because the caller did not read."""
        ...

    def abort(self) -> None:
        """Close the connection at once, and drop what is buffered."""
        ...


class ResponseWriter:
    """Writes one response with backpressure, within a time limit."""

    def __init__(self, scope: Scope, send: Send, max_seconds: float) -> None:
        """
        Args:
            scope: of the request.
            send: of the server.
            max_seconds: time limit for the whole response. The server limits how long the caller may read nothing.
        """
        self._send = send
        self._end = asyncio.get_running_loop().time() + max_seconds
        self._connection = _connection(scope)

    async def start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Send status and headers. Raises as `send`."""
        await self._put({"type": "http.response.start", "status": status, "headers": list(headers)})

    async def send(self, body: bytes) -> None:
        """Send the next piece when the write buffer has space.

        Raises:
            CallerTooSlow: the caller did not read in time; the connection is closed.
        """
        await self._put({"type": "http.response.body", "body": body, "more_body": True})

    async def send_all(self, pieces: AsyncIterator[bytes], receive: Receive) -> None:
        """Send the pieces until the caller disconnects.

        Raises:
            CallerTooSlow, CallerDisconnected: the caller did not read all of them.
        """
        async with disconnect_watcher(receive) as gone:
            async for piece in pieces:
                self._require_reader()
                if gone.done():
                    raise CallerDisconnected("The caller disconnected before the end of the response.")
                await self.send(piece)

    async def end(self) -> None:
        """End the body. Raises as `send`."""
        await self._put({"type": "http.response.body", "body": b""})

    async def _put(self, message: Message) -> None:
        if self._connection is not None and not self._connection.is_write_paused:
            await self._send(message)  # does not wait, so it needs no time limit
        else:
            try:
                # The server waits for buffer space before it writes: after a timeout it has written nothing.
                async with asyncio.timeout_at(self._end):
                    await self._send(message)
            except TimeoutError:
                if self._connection is not None:
                    self._connection.abort()
                    await asyncio.sleep(0)  # until the server has noticed
                raise CallerTooSlow("The caller did not read the response in time.") from None
        self._require_reader()

    def _require_reader(self) -> None:
        if self._connection is not None and self._connection.cut_off:
            raise CallerTooSlow("The caller did not read the response.")


def _connection(scope: Scope) -> ConnectionControl | None:
    connection: ConnectionControl | None = scope.get("extensions", {}).get(CONNECTION, {}).get("connection")
    return connection


async def wait_until_gone(receive: Receive, scope: Scope) -> CallerDisconnected | CallerTooSlow:
    """Return once the caller has disconnected, with the error to raise then. The body must have been read."""
    await _disconnected(receive)
    connection = _connection(scope)
    if connection is not None and connection.cut_off:
        return CallerTooSlow("The caller did not read the response.")
    return CallerDisconnected("The caller disconnected before the image was ready.")


@asynccontextmanager
async def disconnect_watcher(receive: Receive) -> AsyncGenerator[asyncio.Task[None]]:
    """Yield a task that is done when the caller has disconnected. It is cancelled at the end of the block."""
    gone = asyncio.create_task(_disconnected(receive))
    try:
        yield gone
    finally:
        gone.cancel()
        with suppress(asyncio.CancelledError):
            await gone


async def while_connected(work: Coroutine[Any, Any, _T], receive: Receive) -> _T:
    """Return the result of `work`. If the caller disconnects before, `work` is cancelled.

    Raises:
        CallerDisconnected: the caller has disconnected.
    """
    async with disconnect_watcher(receive) as gone:
        task = asyncio.create_task(work)
        try:
            await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            task.cancel()  # changes nothing if it is done
            await asyncio.wait({task})
    try:
        if task.cancelled():
            raise CallerDisconnected("The caller disconnected before the response was ready.")
        return task.result()
    finally:
        del task  # it holds the error, whose traceback holds this frame: a reference cycle


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
