"""uvicorn, with the limits of app/server/protocol.py and an end that lets everybody finish.

On the first signal readiness fails and nothing new is taken on, while whatever is under way is finished and delivered;
then the process exits with 0. On the second one it ends at once.
"""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Iterator
from types import FrameType

import uvicorn
from fastapi import FastAPI

from app.server.protocol import create_protocol
from app.service.resilience.admission import AdmissionController
from app.settings import Settings

log = logging.getLogger(__name__)

_LAST_WORDS_SECONDS = 0.1
"""For telling callers that they were sent away."""


def create_server(app: FastAPI, settings: Settings) -> "Server":
    """A server for the app that `create_app` has built with these settings; its gate is at `app.state.gate`."""
    config = uvicorn.Config(
        app,
        log_config=None,  # app.lib.logs has set the loggers up
        access_log=False,
        server_header=False,
        ws="none",
        http=create_protocol(settings),
        # When this begins everybody is done, or has been sent away; what is left are answers on their way.
        timeout_graceful_shutdown=int(settings.caller_idle_timeout_seconds) + 5,
        host=settings.host,
        port=settings.port,
    )
    return Server(config, app.state.admission, settings.shutdown_delay_seconds, settings.shutdown_grace_seconds)


class Server(uvicorn.Server):
    def __init__(
        self, config: uvicorn.Config, admission: AdmissionController, notice_seconds: float, grace_seconds: float
    ) -> None:
        super().__init__(config)
        self._admission = admission
        self._notice = notice_seconds
        self._grace = grace_seconds
        self._draining: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn does, but an end in good order is no death by signal."""
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
            self._admission.stopping = True  # at once, whatever the event loop is doing
            self._admission.draining = not self._notice

    async def on_tick(self, counter: int) -> bool:
        if self._admission.stopping and self._draining is None:
            self._draining = asyncio.create_task(self.drain())
        if self.force_exit:
            self._admission.abort_all()
            await asyncio.sleep(_LAST_WORDS_SECONDS)
            return True
        return await super().on_tick(counter)

    async def drain(self) -> None:
        """Let whoever balances the load notice; let whatever is under way finish, as long as the grace lasts; stop."""
        await asyncio.sleep(self._notice)
        self._admission.drain()
        log.info("stopping", extra={"underWay": self._admission.in_flight})
        try:
            async with asyncio.timeout(self._grace):
                await self._admission.wait_idle()
        except TimeoutError:
            log.warning("sending away whoever is left", extra={"underWay": self._admission.in_flight})
            self._admission.abort_all()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._admission.wait_idle()
        self.should_exit = True
