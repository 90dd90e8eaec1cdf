"""How the end of a response is marked if neither a length nor chunks can do it: the connection closes.

Both classes wrap the application for one request and change uvicorn's response cycle before it sends the headers.
"""

from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


class Http10Framing:
    """The application for an HTTP/1.0 request. Its client does not know chunks."""

    def __init__(self, app: ASGIApp, cycle: RequestResponseCycle) -> None:
        self._app = app
        self._cycle = cycle
        cycle.waiting_for_100_continue = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_length = False

        async def send_without_chunks(message: Message) -> None:
            nonlocal has_length
            if message["type"] == "http.response.start":
                has_length = any(name.lower() == b"content-length" for name, _ in message.get("headers", ()))
            if not has_length:
                self._cycle.chunked_encoding = False
                self._cycle.expected_content_length = len(message.get("body", b""))
            await send(message)

        await self._app(scope, receive, send_without_chunks)


class EarlyResponseFraming:
    """The application for a request with a chunked body. A response before the end of the body closes the connection.

    The parser cannot stop at the end of the body. A second request in the same packet would get no response.
    """

    def __init__(self, app: ASGIApp, cycle: RequestResponseCycle, is_reading_body: Callable[[], bool]) -> None:
        self._app = app
        self._cycle = cycle
        self._is_reading_body = is_reading_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_and_close(message: Message) -> None:
            if message["type"] == "http.response.start" and self._is_reading_body():
                self._cycle.keep_alive = False
            await send(message)

        await self._app(scope, receive, send_and_close)
