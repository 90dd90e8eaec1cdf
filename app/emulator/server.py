"""Serve an ASGI application with uvicorn inside the running event loop."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncGenerator, Iterator

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

RESET = "emulator.reset"
"""Name of the ASGI scope extension whose `reset` resets the request's connection."""


@contextlib.asynccontextmanager
async def served(app: ASGIApp, host: str = "127.0.0.1", port: int = 0) -> AsyncGenerator[str]:
    """Serve `app` until the block ends, and yield its base URL.

    Args:
        app: an ASGI application. Its lifespan runs too.
        host: the address to bind.
        port: the port to bind; 0 means any free port.
    """
    # With IPPROTO_TCP asyncio sets TCP_NODELAY. Without it, each answer would wait 40 ms (Nagle's algorithm).
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
    server = _EmbeddedServer(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        while not server.started and not serving.done():  # noqa: ASYNC110 - uvicorn has only the flag
            await asyncio.sleep(0.005)
        if serving.done():
            await serving
            raise RuntimeError("The server stopped before it had started.")
        yield f"http://{host}:{listener.getsockname()[1]}"
    finally:
        server.stop()
        await serving
        listener.close()


class _EmbeddedServer(uvicorn.Server):
    """Stops without uvicorn's pauses of 0.1 s, and leaves signals to the process that it runs in."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        self.should_exit = True
        self._stopping.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        while not await self.on_tick(0):  # a tick 0 also renews the `Date` of responses
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), 1)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        try:
            async with asyncio.timeout(self.config.timeout_graceful_shutdown):
                while self.server_state.connections or self.server_state.tasks:  # noqa: ASYNC110 - they have no event
                    await asyncio.sleep(0.005)
        except TimeoutError:
            for task in self.server_state.tasks:
                task.cancel()
        await self.lifespan.shutdown()


class ResettableProtocol(HttpToolsProtocol):
    """Adds the scope extension `RESET`, because ASGI itself cannot reset a connection."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {RESET: {"reset": self._reset}}

    def _reset(self) -> None:
        sock = self.transport.get_extra_info("socket")
        # With a linger time of 0 s the kernel sends RST instead of FIN.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()
