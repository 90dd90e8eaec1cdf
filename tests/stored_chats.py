"""Helpers for tests of stored chats: look into a storage and change it without the service."""

import sqlite3
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import psycopg

from app.store import Storage
from app.store.chats import ChatStore
from tests.conftest import settings_for
from tests.storages import Overrides


def blob_files(storage: Overrides) -> dict[str, bytes]:
    """Return the blobs of a storage in a folder, by name."""
    folder = Path(storage["data_dir"]) / "blobs"
    return {path.name: path.read_bytes() for path in folder.glob("*/*")}


async def execute(storage: Overrides, statement: str) -> None:
    """Run a statement on the database, without the service."""
    if "database_url" in storage:
        async with await psycopg.AsyncConnection.connect(storage["database_url"], autocommit=True) as connection:
            await connection.execute(statement.encode())
    else:
        with sqlite3.connect(Path(storage["data_dir"]) / "chats.db") as connection:
            connection.execute(statement)


async def fetched(storage: Overrides, statement: str) -> list[Any]:
    """Return the rows of a query on the database, without the service."""
    if "database_url" in storage:
        async with await psycopg.AsyncConnection.connect(storage["database_url"], autocommit=True) as connection:
            return await (await connection.execute(statement.encode())).fetchall()
    with sqlite3.connect(Path(storage["data_dir"]) / "chats.db") as database:
        return database.execute(statement).fetchall()


async def stored_characters(storage: Overrides) -> int:
    """Return the number of characters of all documents and texts in the database."""
    sums = await fetched(
        storage,
        "SELECT (SELECT coalesce(sum(length(document)), 0) FROM chats)"
        " + (SELECT coalesce(sum(length(document)), 0) FROM turns)"
        " + (SELECT coalesce(sum(length(text)), 0) FROM texts)",
    )
    return int(sums[0][0])


@asynccontextmanager
async def open_storage(storage: Overrides, **overrides: Any) -> AsyncGenerator[Storage]:
    """Open a storage without a service."""
    opened = Storage(settings_for("http://127.0.0.1:1", **storage, **overrides))
    try:
        yield opened
    finally:
        await opened.aclose()


@asynccontextmanager
async def open_store(storage: Overrides, **overrides: Any) -> AsyncGenerator[ChatStore]:
    """Open the store of chats without a service."""
    async with open_storage(storage, **overrides) as opened:
        yield await opened.chats()


def storage_problem(response: httpx2.Response, *hidden: object) -> tuple[int, str, str]:
    """Return status, code and part of a storage error, and check that none of `hidden` is in the response."""
    document = response.json()
    for one in hidden:
        assert str(one) not in response.text
    assert {"detail", "requestId"} <= document.keys()
    return response.status_code, document["code"], document["part"]


async def can_generate(client: httpx2.AsyncClient) -> bool:
    """Return whether the service generates images without a chat."""
    return (await client.post("/generate-image", json={"prompt": "A cat", "imageSize": "1K"})).is_success
