"""A server inside a running event loop, on a port of its own."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncGenerator, Iterator

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

RESET = "emulator.reset"
"""Name of the scope extension that resets a request's connection."""


@contextlib.asynccontextmanager
async def served(app: ASGIApp, host: str = "127.0.0.1", port: int = 0) -> AsyncGenerator[str]:
    """Serve `app` for as long as the block lasts, and yield its base URL.

    Args:
        app: any ASGI application; its lifespan is run.
        host: the address to bind.
        port: the port to bind; 0 takes a free one.
    """
    # The protocol is named: asyncio looks for it before it turns off Nagle, and without, each answer waits 40 ms.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        http=ResettableProtocol,
        ws="none",
        timeout_graceful_shutdown=2,
        server_header=False,
    )
    server = _Guest(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        while not server.started and not serving.done():  # noqa: ASYNC110 - uvicorn has only the flag
            await asyncio.sleep(0.005)
        if serving.done():
            await serving
            raise RuntimeError("The server stopped before it had started.")
        yield f"http://{host}:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving
        listener.close()


class _Guest(uvicorn.Server):
    """A server in somebody else's process: signals are for the host."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class ResettableProtocol(HttpToolsProtocol):
    """Lets an application reset its connection, which ASGI has no word for."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {RESET: {"reset": self._reset}}

    def _reset(self) -> None:
        sock = self.transport.get_extra_info("socket")
        # Lingering for zero seconds is what makes the kernel send RST instead of FIN.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()
