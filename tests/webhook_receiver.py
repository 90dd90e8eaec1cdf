"""A receiver of webhooks: an ASGI application that keeps what it gets and answers as it is told."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send


@dataclass(frozen=True, slots=True)
class Received:
    """One request."""

    method: str
    target: str
    """Path and query as they were sent."""
    headers: Mapping[str, str]
    body: bytes
    moment: float


@dataclass(slots=True)
class Receiver:
    """Answers with `answers` in turn, and then with 204."""

    answers: list[Response] = field(default_factory=list)
    received: list[Received] = field(default_factory=list)
    in_progress: int = 0
    most_in_progress: int = 0
    delay_seconds: float = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        body = await request.body()
        target = b"?".join(filter(None, (scope["raw_path"], scope["query_string"]))).decode()
        self.received.append(Received(request.method, target, request.headers, body, time.monotonic()))
        self.in_progress += 1
        self.most_in_progress = max(self.most_in_progress, self.in_progress)
        try:
            await asyncio.sleep(self.delay_seconds)
            answer = self.answers.pop(0) if self.answers else Response(status_code=204)
            await answer(scope, receive, send)
        finally:
            self.in_progress -= 1

    async def wait(self, times: int, seconds: float = 10) -> None:
        """Wait until so many requests have arrived."""
        async with asyncio.timeout(seconds):
            while len(self.received) < times:  # noqa: ASYNC110 - a test may wait
                await asyncio.sleep(0.01)


def endless(status: int = 200, pause_seconds: float = 0.01, chunk: bytes = b"x" * 1024) -> StreamingResponse:
    """Return an answer whose body does not end."""

    async def chunks() -> AsyncIterator[bytes]:
        while True:
            yield chunk
            await asyncio.sleep(pause_seconds)

    return StreamingResponse(chunks(), status)
