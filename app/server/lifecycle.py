"""uvicorn with the limits of app/server/protocol.py and a shutdown that finishes the generations in flight.

After the first signal, readiness fails and new requests are refused. Generations in flight are finished and delivered,
and the process exits with code 0. After a second signal the process ends at once.
"""

import asyncio
import contextlib
import functools
import logging
import signal
from collections.abc import Iterator
from types import FrameType
from typing import cast

import uvicorn
from fastapi import FastAPI

from app.server.protocol import ConnectionLimits, LimitedHttpProtocol
from app.service.resilience.admission import AdmissionController
from app.settings import Settings

log = logging.getLogger(__name__)

_ABORT_RESPONSE_SECONDS = 0.1
"""Time to send the responses of aborted generations before the process ends."""

_RESPONSE_MARGIN_SECONDS = 5


def create_server(app: FastAPI, settings: Settings) -> "Server":
    """Return a server for an application that `create_app` has built with the same settings."""
    limits = ConnectionLimits(
        settings.max_connections,
        settings.max_header_bytes,
        settings.header_timeout_seconds,
        settings.caller_idle_timeout_seconds,
    )
    config = uvicorn.Config(
        app,
        log_config=None,  # app/lib/logs.py configures the loggers
        access_log=False,
        server_header=False,
        ws="none",
        http=cast("type[asyncio.Protocol]", functools.partial(LimitedHttpProtocol, limits)),
        # uvicorn starts this timeout after `drain`. By then only the bytes of responses are still to be sent.
        timeout_graceful_shutdown=int(settings.caller_idle_timeout_seconds) + _RESPONSE_MARGIN_SECONDS,
        host=settings.host,
        port=settings.port,
    )
    return Server(config, app.state.admission, settings.shutdown_delay_seconds, settings.shutdown_grace_seconds)


class Server(uvicorn.Server):
    def __init__(
        self, config: uvicorn.Config, admission: AdmissionController, delay_seconds: float, grace_seconds: float
    ) -> None:
        """
        Args:
            config: uvicorn's configuration.
            admission: stops admitting generations when the shutdown begins.
            delay_seconds: how long new requests are still accepted after the first signal.
            grace_seconds: how long generations in flight may take after that.
        """
        super().__init__(config)
        self._admission = admission
        self._delay_seconds = delay_seconds
        self._grace_seconds = grace_seconds
        self._drain_task: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle SIGINT and SIGTERM. uvicorn would raise them again at the end, so that the exit code is not 0."""
        before = {sig: signal.signal(sig, self.handle_exit) for sig in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for sig, handler in before.items():
                signal.signal(sig, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._admission.stopping:
            self.force_exit = True
        else:
            # Here and not in `on_tick`, so that it takes effect before the event loop runs another callback.
            self._admission.stopping = True
            self._admission.draining = not self._delay_seconds

    async def on_tick(self, counter: int) -> bool:
        if self._admission.stopping and self._drain_task is None:
            self._drain_task = asyncio.create_task(self.drain())
        if self.force_exit:
            self._admission.abort_all()
            await asyncio.sleep(_ABORT_RESPONSE_SECONDS)
            return True
        return await super().on_tick(counter)

    async def drain(self) -> None:
        """Wait until load balancers have noticed, finish the generations in flight, and stop the server.

        Generations that are not finished within the grace period are aborted.
        """
        await asyncio.sleep(self._delay_seconds)
        self._admission.drain()
        log.info("stopping", extra={"inFlight": self._admission.in_flight})
        try:
            async with asyncio.timeout(self._grace_seconds):
                await self._admission.wait_idle()
        except TimeoutError:
            log.warning("aborting the generations in flight", extra={"inFlight": self._admission.in_flight})
            self._admission.abort_all()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._admission.wait_idle()
        self.should_exit = True
