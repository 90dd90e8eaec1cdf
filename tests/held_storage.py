"""Hold a service's writes at a chosen point, from outside: locks on its database, and a proxy in front of S3."""

import asyncio
import re
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx2
import psycopg
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.storages import Overrides

IMAGE_UPLOAD = re.compile(r"/[0-9a-f]{64}(-[0-9a-f]+)?$")
"""Uploads of images: their name is a digest."""
ANSWER_UPLOAD = re.compile(r"gen_")
"""Uploads of the object that names the images of a recorded generation: its name has the generation's id."""


async def until(condition: Callable[[], object], seconds: float = 20) -> None:
    """Wait until the condition is true.

    Raises:
        TimeoutError: it is not, after that time.
    """
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)


class HeldDatabase:
    """A second connection to the database of a service. It can stop all writes of recorded generations."""

    def __init__(self, storage: Overrides) -> None:
        self._url: str | None = storage.get("database_url")
        self._file = Path(storage["data_dir"]) / "chats.db"
        self._holding: Any = None

    async def hold(self) -> None:
        """Let writing transactions wait until `release`. Reads go on."""
        self._holding = await asyncio.to_thread(self._connect)
        statement = "LOCK TABLE generations IN EXCLUSIVE MODE" if self._is_postgres else "BEGIN IMMEDIATE"
        await asyncio.to_thread(self._holding.execute, statement)

    async def release(self) -> None:
        if self._holding is not None:
            await asyncio.to_thread(self._holding.close)
            self._holding = None

    async def fetch(self, query: str) -> list[Any]:
        """Return the rows of a query. It does not wait for a lock."""

        def read() -> list[Any]:
            connection = self._connect()
            try:
                return list(connection.execute(query).fetchall())
            finally:
                connection.close()

        return await asyncio.to_thread(read)

    async def wait_for(self, query: str, rows: Sequence[Any] = ((1,),), seconds: float = 20) -> None:
        """Wait until the query has these rows."""
        found: list[Any] = []
        async with asyncio.timeout(seconds):
            while found != list(rows):
                found = await self.fetch(query)

    @property
    def _is_postgres(self) -> bool:
        return self._url is not None and self._url.startswith("postgresql:")

    def _connect(self) -> Any:
        if self._is_postgres:
            return psycopg.connect(str(self._url))
        return sqlite3.connect(self._file, isolation_level=None, timeout=20, check_same_thread=False)


class HeldBucket:
    """A proxy in front of a server with S3's API, as an ASGI application. It can hold uploads."""

    def __init__(self, url: str) -> None:
        """
        Args:
            url: of the server.
        """
        self._url = url
        self.before: re.Pattern[str] | None = None
        """Uploads to such paths do not reach the server until `release`."""
        self.after: re.Pattern[str] | None = None
        """Uploads to such paths are stored, but are not answered until `release`."""
        self.has_held = asyncio.Event()
        """Set when an upload is held."""
        self._released = asyncio.Event()

    def release(self) -> None:
        self.before = self.after = None
        self._released.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        body = await _body_of(receive)
        path = scope["path"]
        is_upload = scope["method"] in ("PUT", "POST")
        if is_upload and self.before is not None and self.before.search(path) and not await self._hold(receive):
            return
        query = scope["query_string"].decode()
        async with httpx2.AsyncClient(trust_env=False, timeout=30) as client:
            headers = [(name, value) for name, value in scope["headers"] if name not in (b"connection", b"expect")]
            answer = await client.request(
                scope["method"], f"{self._url}{scope['raw_path'].decode()}?{query}".rstrip("?"),
                content=body, headers=headers,
            )  # fmt: skip
        if is_upload and self.after is not None and self.after.search(path) and not await self._hold(receive):
            return
        kept = [(name.lower(), value) for name, value in answer.headers.raw if name.lower() != b"transfer-encoding"]
        await send({"type": "http.response.start", "status": answer.status_code, "headers": kept})
        await send({"type": "http.response.body", "body": answer.content})

    async def _hold(self, receive: Receive) -> bool:
        """Wait until `release`, or until the client disconnects. Return whether the client is still there."""
        self.has_held.set()
        leaving = asyncio.ensure_future(receive())
        released = asyncio.create_task(self._released.wait())
        await asyncio.wait((leaving, released), return_when=asyncio.FIRST_COMPLETED)
        released.cancel()
        is_there = not leaving.done()
        leaving.cancel()
        return is_there


async def _body_of(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += bytes(message.get("body", b""))
        if not message.get("more_body"):
            return body


class ConcurrentCalls:
    """Passes calls to an ASGI application, counts those that run at the same time, and can hold them all."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.now = 0
        self.most = 0
        self.open = asyncio.Event()
        """Calls wait until it is set."""
        self.open.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            return await self._app(scope, receive, send)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await self.open.wait()
            await self._app(scope, receive, send)
        finally:
            self.now -= 1
