"""Two replicas of the service in processes of their own, on one storage, for tests that kill them."""

import asyncio
import os
import random
import signal
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from tests.processes import process
from tests.storages import S3_ENVIRONMENT, Overrides, free_port


@dataclass
class Fleet:
    """Two replicas behind fixed ports. They run inside the block."""

    gemini_url: str
    storage: Overrides
    chance: random.Random
    settings: dict[str, Any]
    kills: int = 0
    _ports: tuple[int, int] = field(default_factory=lambda: (free_port(), free_port()))
    _running: list[Any] = field(default_factory=list)
    _services: list[asyncio.subprocess.Process] = field(default_factory=list)
    _killing: asyncio.Task[None] | None = None

    def url(self) -> str:
        """Return the URL of one of the replicas."""
        return f"http://127.0.0.1:{self.chance.choice(self._ports)}"

    def kill_every(self, seconds: float) -> None:
        """Kill one replica after the other and start it again, until `stop_killing`."""
        self._killing = asyncio.create_task(self._kill_forever(seconds))

    async def stop_killing(self) -> None:
        """Return when both replicas run again."""
        if self._killing is not None:
            self._killing.cancel()
            await asyncio.gather(self._killing, return_exceptions=True)
            self._killing = None
            for which, service in enumerate(self._services):
                if service.returncode is not None:
                    await self._start(which)

    async def _kill_forever(self, seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds)
            which = self.kills % 2
            self._services[which].send_signal(signal.SIGKILL)
            self.kills += 1
            await self._running[which].__aexit__(None, None, None)
            await self._start(which)

    async def _start(self, which: int) -> None:
        replica = process(self.gemini_url, **self._environment(), **self.settings, port=self._ports[which])
        service, _ = await replica.__aenter__()
        self._running[which : which + 1] = [replica]
        self._services[which : which + 1] = [service]

    def _environment(self) -> dict[str, Any]:
        if "blob_url" not in self.storage:
            return self.storage
        bucket = {name.lower(): value for name, value in S3_ENVIRONMENT.items()}
        return {**self.storage, **bucket, "aws_endpoint_url": os.environ["AWS_ENDPOINT_URL"]}

    async def __aenter__(self) -> Self:
        try:
            for which in range(2):
                await self._start(which)
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._killing is not None:
            self._killing.cancel()
            await asyncio.gather(self._killing, return_exceptions=True)
        for one in self._running:
            await one.__aexit__(None, None, None)
