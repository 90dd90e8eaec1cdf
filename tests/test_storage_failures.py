"""A database or blob store that fails is reported, costs nothing, and works again when it is back."""

import asyncio
import base64
import os
import signal
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest

from app.emulator import Emulator, Fault
from tests.conftest import Serve, image_of, noise_jpeg, wait_for_calls
from tests.processes import process
from tests.storages import Overrides, Postgres, postgres, s3
from tests.stored_chats import can_generate, storage_problem
from tests.test_chats import Chat, begin


async def test_a_data_folder_that_cannot_be_made_is_a_database_error(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    async with serve(data_dir=tmp_path / "file") as client:
        response = await client.post("/chats", json={})
        alone = await can_generate(client)

    assert storage_problem(response, tmp_path) == (503, "storage_unavailable", "database")
    assert int(response.headers["retry-after"]) >= 1
    assert alone


async def test_a_blob_folder_that_cannot_be_made_is_a_blob_error(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "blobs").write_text("in the way")
    async with serve(data_dir=tmp_path) as client:
        response = await client.post("/chats", json={})
        alone = await can_generate(client)

    assert storage_problem(response, tmp_path) == (503, "storage_unavailable", "blobs")
    assert alone


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        ({"database_url": "postgresql://me:secret@127.0.0.1:1/chats"}, "database"),
        ({"database_url": "mysql://me:secret@127.0.0.1/chats"}, "database"),
        ({"database_url": "no url, secret"}, "database"),
        ({"database_url": "postgresql://me:secret@127.0.0.1:port/chats"}, "database"),
        ({"database_url": "sqlite://"}, "database"),
        ({"blob_url": "s3://[secret"}, "blobs"),
        ({"blob_url": "ftp://secret/x"}, "blobs"),
        ({"database_url": "sqlite:////proc/secret/chats.db"}, "database"),
    ],
)
async def test_callers_do_not_see_the_address_of_an_invalid_storage(
    serve: Serve, tmp_path: Path, overrides: Overrides, part: str
) -> None:
    async with serve(**{"data_dir": tmp_path, **overrides}) as client:
        response = await client.post("/chats", json={})
        alone = await can_generate(client)

    assert storage_problem(response, "secret", "127.0.0.1") == (503, "storage_unavailable", part)
    assert alone


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """A file system of 24 MB."""
    if os.geteuid() != 0 or os.system(f"mount -t tmpfs -o size=24m none {tmp_path} 2>/dev/null") != 0:
        pytest.skip("mounting a small file system takes root")
    yield tmp_path
    os.system(f"umount -l {tmp_path}")


async def test_a_full_disk_is_reported_before_gemini_is_called(
    serve: Serve, gemini: Emulator, small_disk: Path
) -> None:
    async with serve(data_dir=small_disk) as client:
        chat = await begin(client)
        first = image_of(await chat.say("A cat"))
        with (small_disk / "filler").open("wb") as filler, suppress(OSError):
            for _ in range(1000):
                filler.write(bytes(100_000))
        full = await chat.say("Blue, please")
        read = await chat.read()
        image = (await client.get(f"{chat.url}/turns/1/image")).content
        alone = await can_generate(client)
        (small_disk / "filler").unlink()
        after = await chat.say("Blue, please")

    assert storage_problem(full, small_disk) == (507, "storage_full", "blobs")
    assert len(gemini.calls) == 3
    assert (read["lastTurn"], image) == (1, first)
    assert alone
    assert after.json()["turn"] == 2


async def test_a_read_only_disk_is_reported(serve: Serve, gemini: Emulator, small_disk: Path) -> None:
    async with serve(data_dir=small_disk) as client:
        chat = await begin(client, prompt="A cat")
    await anyio.run_process(["mount", "-o", "remount,ro", str(small_disk)])
    async with serve(data_dir=small_disk) as client:
        turn = await Chat(client, chat.url).say("Blue, please")
        alone = await can_generate(client)
        await anyio.run_process(["mount", "-o", "remount,rw", str(small_disk)])
        after = await Chat(client, chat.url).say("Blue, please")

    assert storage_problem(turn, small_disk)[:2] == (503, "storage_unavailable")
    assert alone
    assert after.json()["turn"] == 2


@pytest.mark.slow
async def test_a_disk_that_fills_during_a_generation_loses_only_its_image(
    serve: Serve, gemini: Emulator, small_disk: Path
) -> None:
    """
    The caller learns that the lost image may have cost money. Earlier turns are still there.
    """
    async with serve(data_dir=small_disk) as client:
        chat = await begin(client)
        await chat.say("A cat")
        gemini.faults.append(Fault(image_base64=base64.b64encode(noise_jpeg(1, 30_000_000)).decode()))
        full = await chat.say("Blue, please")
        read = await chat.read()
        after = await chat.say("Red, please")

    assert storage_problem(full, small_disk) == (507, "storage_full", "blobs")
    assert full.headers["x-should-retry"] == "false"
    assert (read["lastTurn"], read["turnInProgress"]) == (1, False)
    assert after.json()["turn"] == 2


@pytest.fixture
def new_database(_postgres: Postgres) -> Callable[[str], str]:
    """Return a function that makes a database with an encoding and returns its URL."""
    return _postgres.database


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
async def test_texts_are_unchanged_in_a_database_of_another_encoding(
    serve: Serve, gemini: Emulator, tmp_path: Path, new_database: Callable[[str], str], encoding: str
) -> None:
    """
    A cluster without a locale has the encoding SQL_ASCII. Then psycopg returns bytes, unless the service
    sets an encoding.
    """
    async with serve(database_url=new_database(encoding), data_dir=tmp_path) as client:
        chat = await begin(client, prompt="Drei Äpfel für Zoë")
        read = await chat.read()

    assert read["turns"][0]["prompt"] == "Drei Äpfel für Zoë"


@pytest.mark.slow
async def test_requests_do_not_wait_long_for_a_database_that_never_answers(
    serve: Serve, gemini_url: str, tmp_path: Path
) -> None:
    """
    Concurrent requests share one attempt to connect. SIGTERM still stops the process.
    """

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    url = f"postgresql://me@127.0.0.1:{server.sockets[0].getsockname()[1]}/chats"
    async with (
        server,
        process(gemini_url, database_url=url, data_dir=tmp_path) as (service, at),
        httpx2.AsyncClient(base_url=at, timeout=30) as client,
    ):
        began = time.monotonic()
        responses = await asyncio.gather(*(client.get("/chats") for _ in range(5)))
        took = time.monotonic() - began
        service.send_signal(signal.SIGTERM)
        await asyncio.wait_for(service.wait(), 20)

    assert {storage_problem(response) for response in responses} == {(503, "storage_unavailable", "database")}
    assert took < 12


async def test_turns_work_again_when_the_blob_folder_is_back(serve: Serve, gemini: Emulator, tmp_path: Path) -> None:
    blobs = tmp_path / "blobs"
    async with serve(data_dir=tmp_path) as client:
        chat = await begin(client)
        first = image_of(await chat.say("A cat"))
        blobs.rename(tmp_path / "elsewhere")
        gone = await chat.say("Blue, please")
        read = await chat.read()
        alone = await can_generate(client)
        (tmp_path / "elsewhere").rename(blobs)
        after = await chat.say("Blue, please")
        image = (await client.get(f"{chat.url}/turns/1/image")).content

    assert storage_problem(gone, tmp_path) == (503, "storage_unavailable", "blobs")
    assert read["lastTurn"] == 1
    assert alone
    assert (after.json()["turn"], image) == (2, first)


@pytest.fixture
async def own_servers(tmp_path: Path) -> AsyncGenerator[tuple[Postgres, Any, Overrides]]:
    """PostgreSQL and S3 for one test only, so that it can stop them."""
    with postgres() as database, s3() as buckets:
        yield (
            database,
            buckets,
            {"database_url": database.database(), "blob_url": buckets.bucket(), "data_dir": tmp_path},
        )


async def test_a_turn_is_saved_when_the_database_is_back(
    serve: Serve, gemini: Emulator, own_servers: tuple[Postgres, Any, Overrides]
) -> None:
    """
    If the database is down before a turn, Gemini is not called. If it goes down during the generation, the turn is
    saved as soon as it is back.
    """
    database, _, storage = own_servers
    async with serve(**storage) as client:
        chat = await begin(client)
        first = image_of(await chat.say("A cat"))
        database.stop()
        gone = await chat.say("Blue, please")
        read = await client.get(chat.url)
        alone = await can_generate(client)
        database.start()
        while not (await client.get(chat.url)).is_success:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        gemini.hold()
        asking = asyncio.create_task(chat.say("Red, please"))
        await wait_for_calls(gemini, 3)
        database.stop()
        gemini.release()
        await asyncio.sleep(0.5)
        database.start()
        second = await asking
        found = await chat.read()
        image = (await client.get(f"{chat.url}/turns/1/image")).content

    for response in (gone, read):
        assert storage_problem(response, "127.0.0.1", "images@") == (503, "storage_unavailable", "database")
    assert alone
    assert second.json()["turn"] == 2
    assert (found["lastTurn"], image) == (2, first)
    assert len(gemini.calls) == 3


async def test_a_missing_bucket_is_unavailable_not_damaged(
    serve: Serve, gemini: Emulator, bucket: str, tmp_path: Path
) -> None:
    """
    The service cannot know whether the blobs of a missing bucket are lost.
    """
    gone = "s3://nothing-of-that-name/chats"
    async with serve(data_dir=tmp_path, blob_url=bucket) as client:
        chat = await begin(client, prompt="A cat")
    async with serve(data_dir=tmp_path, blob_url=gone) as client:
        image = await client.get(f"{chat.url}/turns/1/image")
        turn = await Chat(client, chat.url).say("Blue, please")
        alone = await can_generate(client)

    for response in (image, turn):
        assert storage_problem(response, "127.0.0.1", "nothing-of") == (503, "storage_unavailable", "blobs")
    assert alone
    assert len(gemini.calls) == 2


@pytest.mark.slow
async def test_a_bucket_that_does_not_answer_is_reported(
    serve: Serve, gemini: Emulator, own_servers: tuple[Postgres, Any, Overrides]
) -> None:
    _, buckets, storage = own_servers
    async with serve(**storage) as client:
        chat = await begin(client)
        await chat.say("A cat")
        buckets.stop()
        image = await client.get(f"{chat.url}/turns/1/image")
        gone = await chat.say("Blue, please")
        read = await chat.read()
        alone = await can_generate(client)

    for response in (image, gone):
        assert storage_problem(response, "127.0.0.1") == (503, "storage_unavailable", "blobs")
    assert read["turnInProgress"] is False
    assert alone


async def test_a_service_without_chats_writes_no_files(serve: Serve, gemini: Emulator, tmp_path: Path) -> None:
    async with serve(data_dir=tmp_path / "data") as client:
        assert await can_generate(client)

    assert list(tmp_path.iterdir()) == []
