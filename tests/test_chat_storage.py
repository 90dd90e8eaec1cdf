"""What is kept stays: through crashes, over replicas, with storages that fail; and what nobody needs any more goes."""

import asyncio
import base64
import hashlib
import os
import random
import signal
import sqlite3
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import alembic.autogenerate
import anyio
import httpx2
import psycopg
import pytest
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from obstore.store import from_url
from sqlalchemy.engine import Connection

from app.domain.chat import Chat as Chats
from app.domain.chat import ChatDefaults, Turn, TurnState
from app.domain.errors import ChatNotFound, LeaseLost, ServiceError, StorageUnavailable
from app.domain.generation import Image
from app.emulator import Emulator, Fault, served
from app.lib.base64_json import BufferContent
from app.settings import Settings
from app.store import Storage
from app.store.blobs import GRACE_SECONDS
from app.store.chats import ChatStore
from app.store.database import Database
from app.store.migrate import HEAD, migrate
from app.store.tables import metadata
from tests.conftest import Serve, called, noise, picture, settings_for
from tests.processes import process
from tests.storages import S3_ENVIRONMENT, Knobs, Postgres, postgres, s3
from tests.test_chats import Chat, begin, contents, drawn, images_in


def files_in(storage: Knobs) -> dict[str, bytes]:
    """The blobs of a storage in a folder, by name."""
    folder = Path(storage["data_dir"]) / "blobs"
    return {path.name: path.read_bytes() for path in folder.glob("*/*")}


async def execute(storage: Knobs, statement: str) -> None:
    """Change something behind the service's back."""
    if "database_url" in storage:
        async with await psycopg.AsyncConnection.connect(storage["database_url"], autocommit=True) as connection:
            await connection.execute(statement.encode())
    else:
        with sqlite3.connect(Path(storage["data_dir"]) / "chats.db") as connection:
            connection.execute(statement)


@asynccontextmanager
async def opened(storage: Knobs, **knobs: Any) -> AsyncGenerator[ChatStore]:
    """The storage without a service around it."""
    way = Storage(settings_for("http://127.0.0.1:1", **storage, **knobs))
    try:
        yield await way.chats()
    finally:
        await way.aclose()


# Restarts and replicas.


@pytest.mark.slow
@pytest.mark.parametrize("turns", [2, 12])
async def test_a_chat_outlives_any_number_of_crashes(storage: Knobs, turns: int) -> None:
    """
    Each turn is asked of one of two replicas (of one process, on SQLite), which is killed at some moment of it and
    started again. Whatever was acknowledged is there, to the bit; Gemini accepts every signature.
    """
    chance = random.Random(20261125 + turns)
    emulator = Emulator(delay_seconds=0.1, signature_bytes=40_000, keep_calls=1000)
    knobs = {**storage, "chat_lease_seconds": 1, **{name.lower(): value for name, value in S3_ENVIRONMENT.items()}}
    knobs["aws_endpoint_url"] = os.environ.get("AWS_ENDPOINT_URL", "")
    replicas = 2 if "database_url" in storage else 1
    acknowledged: dict[int, bytes] = {}
    crashes = 0

    async with served(emulator) as gemini_url:
        running = [process(gemini_url, **knobs) for _ in range(replicas)]
        at = [await one.__aenter__() for one in running]
        try:
            async with httpx2.AsyncClient(timeout=30) as client:
                url = (await client.post(f"{at[0][1]}/chats", json={"imageSize": "1K"})).headers["location"]
                for number in range(1, turns + 1):
                    uploads = [picture(colour=f"#{number}00000"[:7])] if number in (1, 5) else []
                    crash = True
                    while True:
                        which = chance.randrange(replicas)
                        service, base = at[which]
                        chat = Chat(client, f"{base}{url}")
                        asking = asyncio.create_task(
                            chat.upload(f"Turn {number}", *uploads, afterTurn=number - 1)
                            if uploads
                            else chat.say(f"Turn {number}", afterTurn=number - 1)
                        )
                        if crash:
                            await asyncio.sleep(chance.uniform(0, 0.4))
                            service.send_signal(signal.SIGKILL)
                            crashes += 1
                        try:
                            response = await asking
                        except httpx2.TransportError:
                            response = None
                        if crash:
                            await running[which].__aexit__(None, None, None)
                            running[which] = process(gemini_url, **knobs)
                            at[which] = await running[which].__aenter__()
                            crash = False
                        if response is not None and response.is_success:
                            assert response.json()["warnings"] == []
                            acknowledged[number] = drawn(response)
                            break
                        if response is not None and response.json()["code"] == "stale_turn":
                            break  # it was kept, and the word of it got lost
                        assert response is None or response.json()["code"] == "turn_in_progress", response.text
                        await asyncio.sleep(0.2)
                found = (await client.get(f"{at[0][1]}{url}")).json()
                kept = [(await client.get(at[0][1] + turn["image"]["url"])).content for turn in found["turns"]]
        finally:
            for one in running:
                await one.__aexit__(None, None, None)

    assert crashes == turns
    assert [turn["turn"] for turn in found["turns"]] == list(range(1, turns + 1))
    assert {turn["state"] for turn in found["turns"]} == {"succeeded"}
    assert [turn["warnings"] for turn in found["turns"]] == [
        []
    ] * turns  # it would be said if a signature did not count
    assert acknowledged.items() <= dict(enumerate(kept, start=1)).items()
    told = [images_in(content)[-1] for content in contents(emulator) if content["role"] == "model"]
    assert told == kept[:-1]


async def test_replicas_share_their_chats(serve: Serve, gemini: Emulator, storage: Knobs) -> None:
    async with serve(**storage) as here, serve(**storage) as there:
        chat = await begin(here)
        first = drawn(await chat.say("A cat"))
        second = drawn(await Chat(there, chat.url).say("Blue, please"))
        third = await chat.say("Larger")
        image = (await there.get(f"{chat.url}/turns/1/image")).content

    assert third.json()["turn"] == 3
    assert image == first
    assert [images_in(content) for content in contents(gemini)] == [[], [first], [], [second], []]


async def test_a_turn_that_lost_its_lease_is_not_kept(storage: Knobs) -> None:
    """
    It took too long, another replica has gone on meanwhile: the chat stays as that one left it.
    """
    turn = Turn(number=1, state=TurnState.SUCCEEDED, prompt="A cat", model="any", generation_id="gen_1")
    async with opened(storage, chat_lease_seconds=1) as store:
        empty = await store.add("anna", ChatDefaults())
        slow = await store.turns.lease(empty.id, "anna", "slow")
        await asyncio.sleep(1.1)
        fast = await store.turns.lease(empty.id, "anna", "fast")
        await store.turns.renew(["slow"])
        with pytest.raises(LeaseLost):
            await store.turns.save(slow, "slow", turn, None)
        await store.turns.save(fast, "fast", turn, None)
        with pytest.raises(LeaseLost):
            await store.turns.save(
                slow, "slow", Turn(1, TurnState.SUCCEEDED, "A dog", "any", generation_id="gen_2"), None
            )
        found = await store.get(empty.id, "anna")

    assert [one.prompt for one in found.turns] == ["A cat"]


async def test_a_turn_is_kept_once_even_if_nobody_heard_that_it_was(storage: Knobs) -> None:
    turn = Turn(number=1, state=TurnState.SUCCEEDED, prompt="A cat", model="any", generation_id="gen_1")
    async with opened(storage) as store:
        empty = await store.add("anna", ChatDefaults())
        chat = await store.turns.lease(empty.id, "anna", "me")
        await store.turns.save(chat, "me", turn, None)
        await store.turns.save(chat, "me", turn, None)
        found = await store.get(empty.id, "anna")

    assert len(found.turns) == 1


# What there is of bytes.


async def test_no_bytes_are_there_twice(serve: Serve, gemini: Emulator, tmp_path: Path) -> None:
    """
    Two chats, a fork, the same upload in all of them: each file is stored once, under the digest of its bytes.
    """
    logo = picture(colour="red")
    image = base64.b64encode(noise(1, 100_000)).decode()
    gemini.faults.append(Fault(times=4, image_base64=image))
    async with serve(data_dir=tmp_path) as client:
        one, two = await begin(client), await begin(client)
        for chat in (one, two):
            await chat.upload("A mug", logo)
            await chat.say("Larger")
        await client.post(f"{one.url}/fork")

    files = files_in({"data_dir": tmp_path})
    assert all(hashlib.sha256(content).hexdigest() == name for name, content in files.items())
    # The logo, the image, and for each of two places in a chat a signature of the words and one of the image.
    assert len(files) == 2 + 4
    with sqlite3.connect(tmp_path / "chats.db") as database:
        known = database.execute("SELECT digest, bytes FROM blobs").fetchall()
    assert dict(known) == {name: len(content) for name, content in files.items()}


async def test_a_sweep_removes_what_nobody_refers_to_and_nothing_else(storage: Knobs) -> None:
    def turn(number: int, *images: bytes) -> Turn:
        image = Image(BufferContent(images[0]), "image/png", 1, 1)
        return Turn(number, TurnState.SUCCEEDED, "A cat", "any", image=image, generation_id=f"gen_{number}")

    shared, alone = os.urandom(100_000), os.urandom(100_000)
    async with opened(storage) as store:
        chat = await store.turns.lease((await store.add("anna", ChatDefaults())).id, "anna", "1")
        await store.turns.save(chat, "1", turn(1, shared), None)
        fork = await store.fork(chat.id, "anna", None)
        chat = await store.turns.lease(chat.id, "anna", "2")
        await store.turns.save(chat, "2", turn(2, alone), None)
        await store.remove(chat.id, "anna")
        early = await store.cleanup()
        await execute(storage, f"UPDATE blobs SET touched_at = touched_at - {GRACE_SECONDS + 1}")
        swept = await store.cleanup()
        found = (await store.get(fork.id, "anna")).turns[0].image
        assert found
        kept = b"".join([piece async for piece in found.content])
        there = [await store.blobs.has(hashlib.sha256(one).hexdigest(), len(one)) for one in (shared, alone)]

    assert (early.blobs, swept.blobs) == (0, 1)
    assert kept == shared
    assert there == [True, False]


async def test_bytes_that_were_swept_are_stored_anew(storage: Knobs) -> None:
    image = Image(BufferContent(os.urandom(1000)), "image/png", 1, 1)
    async with opened(storage) as store:
        for number in range(2):
            chat = await store.turns.lease((await store.add("anna", ChatDefaults())).id, "anna", str(number))
            turn = Turn(1, TurnState.SUCCEEDED, "A cat", "any", image=image, generation_id="gen")
            await store.turns.save(chat, str(number), turn, None)
            found = (await store.get(chat.id, "anna")).turns[0].image
            assert found
            assert b"".join([piece async for piece in found.content]) == image.content.head(1000)
            await store.remove(chat.id, "anna")
            await execute(storage, f"UPDATE blobs SET touched_at = touched_at - {GRACE_SECONDS + 1}")
            assert (await store.cleanup()).blobs == 1


async def test_a_service_sweeps_by_itself(serve: Serve, gemini: Emulator, storage: Knobs) -> None:
    """
    A chat that has expired is not there any more, whether or not it has been swept; its row goes, then its bytes.
    """
    async with serve(**storage, chat_ttl="1s", chat_cleanup_interval_seconds=1) as client:
        chat = await begin(client, prompt="A cat")
        await asyncio.sleep(1.05)
        gone = await client.get(chat.url)
        await asyncio.sleep(1.5)
    async with opened(storage, chat_ttl="0") as store:
        left = await store.page("local", 100, None)

    assert gone.status_code == 404
    assert left == []


async def test_files_that_a_crash_left_half_written_are_removed(tmp_path: Path) -> None:
    folder = tmp_path / "blobs" / "ab"
    folder.mkdir(parents=True)
    half, whole = folder / ("ab" * 32 + "#1"), folder / ("ab" * 32)
    half.write_bytes(b"half")
    whole.write_bytes(b"whole")
    os.utime(half, (1, 1))

    async with opened({"data_dir": tmp_path}) as store:
        swept = await store.cleanup()

    assert swept.unfinished == 1
    assert (half.exists(), whole.exists()) == (False, True)


async def test_large_files_go_in_and_out_in_pieces(storage: Knobs) -> None:
    """
    Beyond what goes into a bucket at once.
    """
    data = os.urandom(20_000_001)
    async with opened(storage) as store:
        digest = hashlib.sha256(data).hexdigest()
        await store.blobs.put(digest, BufferContent(data))
        blob = store.blobs.blob(digest, len(data))
        pieces = [piece async for piece in blob]
        middle = b"".join([piece async for piece in blob.between(5_000_000, 9_999_999)])

    assert b"".join(pieces) == data
    assert all(len(piece) % 3 == 0 for piece in pieces[:-1])
    assert max(map(len, pieces)) < 1_000_000
    assert middle == data[5_000_000:9_999_999]


async def test_a_sweep_and_a_writer_of_the_same_bytes(storage: Knobs) -> None:
    """
    The file is being removed at the very moment in which it is needed again: it gets another name.
    """
    image = Image(BufferContent(os.urandom(1000)), "image/png", 1, 1)

    async def added(store: ChatStore, number: int) -> Chats:
        chat = await store.turns.lease((await store.add("anna", ChatDefaults())).id, "anna", str(number))
        await store.turns.save(chat, str(number), Turn(1, TurnState.SUCCEEDED, "A cat", "any", image=image), None)
        return chat

    async with opened(storage) as store:
        await store.remove((await added(store, 1)).id, "anna")
        await execute(storage, f"UPDATE blobs SET touched_at = touched_at - {GRACE_SECONDS + 1}, doomed = TRUE")
        chat = await added(store, 2)
        swept = await store.cleanup()
        found = (await store.get(chat.id, "anna")).turns[0].image
        assert found
        kept = b"".join([piece async for piece in found.content])

    assert swept.blobs == 0
    assert kept == image.content.head(1000)


async def test_a_fork_and_the_end_of_what_it_is_forked_from(storage: Knobs) -> None:
    """
    At the same moment, many times: a fork has all of the other's files, or there is none.
    """
    image = Image(BufferContent(os.urandom(1000)), "image/png", 1, 1)
    async with opened(storage) as store:
        for number in range(10):
            chat = await store.turns.lease((await store.add("anna", ChatDefaults())).id, "anna", str(number))
            await store.turns.save(chat, str(number), Turn(1, TurnState.SUCCEEDED, "A cat", "any", image=image), None)
            fork, removed = await asyncio.gather(
                store.fork(chat.id, "anna", None), store.remove(chat.id, "anna"), return_exceptions=True
            )
            await execute(storage, f"UPDATE blobs SET touched_at = touched_at - {GRACE_SECONDS + 1}")
            await store.cleanup()
            assert removed is None
            if isinstance(fork, BaseException):
                assert isinstance(fork, ChatNotFound)
                continue
            found = (await store.get(fork.id, "anna")).turns[0].image
            assert found
            assert b"".join([piece async for piece in found.content]) == image.content.head(1000)
            await store.remove(fork.id, "anna")


async def test_readers_who_do_not_read_hold_little(serve: Serve, gemini: Emulator, tmp_path: Path) -> None:
    """
    What they hold is counted, whatever the size of the file.
    """
    gemini.faults.append(Fault(image_base64=base64.b64encode(noise(1, 6_000_000)).decode()))
    async with serve(data_dir=tmp_path, max_buffered_bytes=40_000_000, queue_timeout_seconds=0.5) as client:
        chat = await begin(client, prompt="A cat")
        host, port = client.base_url.host, client.base_url.port
        request = f"GET {chat.url}/turns/1/image HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        readers = [await asyncio.open_connection(host, port, limit=1024) for _ in range(30)]
        for _, writer in readers:
            writer.write(request)
        held = await _held_by_answers(client, 15_000_000)
        beyond = await client.get(f"{chat.url}/turns/1/image")
        for _, writer in readers:
            writer.transport.abort()
        await asyncio.sleep(0.2)
        after = await client.get(f"{chat.url}/turns/1/image")

    assert held <= 20_000_000
    assert (beyond.status_code, beyond.json()["code"]) == (503, "overloaded")
    assert len(after.content) > 6_000_000


async def _held_by_answers(client: httpx2.AsyncClient, at_least: int) -> float:
    """The bytes held for answers, once they are so many."""
    held = 0.0
    async with asyncio.timeout(10):
        while held <= at_least:
            await asyncio.sleep(0.05)
            metrics = (await client.get("/metrics")).text.splitlines()
            (line,) = [line for line in metrics if line.startswith('gemini_images_held_bytes{of="answers"}')]
            held = float(line.split()[1])
    return held


async def test_readers_of_long_chats_who_do_not_read_hold_little(
    serve: Serve, gemini: Emulator, storage: Knobs
) -> None:
    """
    A chat of 6 MB is sent a few turns at a time: 20 readers hold some MB of the memory for answers, and who finds none
    left is told so.
    """
    prompts = [f"{number} {chr(65 + number) * 190_000}" for number in range(32)]
    async with serve(**storage, max_buffered_bytes=24_000_000, queue_timeout_seconds=0.5) as client:
        chat = await begin(client)
        async with opened(storage) as store:
            for number, prompt in enumerate(prompts, start=1):
                leased = await store.turns.lease(chat.url.removeprefix("/chats/"), "local", str(number))
                await store.turns.save(leased, str(number), Turn(number, TurnState.FAILED, prompt, "any"), None)
        request = f"GET {chat.url} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        found = await chat.read()
        readers = [
            await asyncio.open_connection(client.base_url.host, client.base_url.port, limit=1024) for _ in range(20)
        ]
        for _, writer in readers:
            writer.write(request)
        held = await _held_by_answers(client, 6_000_000)
        await asyncio.sleep(0.5)  # for those who would take more than there is
        held = await _held_by_answers(client, 6_000_000)
        beyond = await client.get(chat.url)
        for _, writer in readers:
            writer.transport.abort()
        await asyncio.sleep(0.2)
        after = await chat.read()

    assert held <= 12_000_000
    assert (beyond.status_code, beyond.json()["code"]) == (503, "overloaded")
    assert [turn["prompt"] for turn in found["turns"]] == prompts
    assert after == found


# Other users of the machine.


def modes_in(folder: Path) -> dict[str, str]:
    """Permissions of the folder and of everything in it, by path."""
    found = [folder, *folder.rglob("*")]
    return {str(path.relative_to(folder)): f"{path.stat().st_mode & 0o777:o}" for path in found}


def only_for_us(folder: Path) -> dict[str, str]:
    found = [folder, *folder.rglob("*")]
    return {str(path.relative_to(folder)): "700" if path.is_dir() else "600" for path in found}


@pytest.fixture
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.mark.usefixtures("usual_umask")
async def test_other_users_of_the_machine_cannot_read_what_is_kept(
    serve: Serve, gemini: Emulator, tmp_path: Path
) -> None:
    data = tmp_path / "new" / "data"
    async with serve(data_dir=data) as client:
        chat = await begin(client)
        gemini.faults.append(Fault(image_base64=base64.b64encode(noise(1, 9_000_000)).decode()))
        await chat.upload("A mug", picture(colour="red"))
        found, wanted = modes_in(data), only_for_us(data)

    assert {"chats.db", "chats.db-wal", "chats.db-shm", "blobs", "blobs/probe"} <= found.keys()
    assert len(found) > 10
    assert found == wanted
    assert modes_in(tmp_path / "new")["."] == "700"
    assert os.umask(0o022) == 0o022, "the service changes the umask of no process but its own"


@pytest.mark.usefixtures("usual_umask")
async def test_what_an_earlier_version_left_open_is_closed(serve: Serve, gemini: Emulator, tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with serve(data_dir=data) as client:
        chat = await begin(client, prompt="A cat")
    for path in [data, *data.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)

    async with serve(data_dir=data) as client:
        assert (await Chat(client, chat.url).say("Blue, please")).json()["turn"] == 2
        found, wanted = modes_in(data), only_for_us(data)

    assert found == wanted


@pytest.mark.usefixtures("usual_umask")
async def test_a_folder_with_files_of_others_stays_open_and_ours_in_it_are_closed(
    serve: Serve, gemini: Emulator, tmp_path: Path
) -> None:
    data = tmp_path / "shared"
    data.mkdir(0o755)
    (data / "notes.txt").write_text("for everybody")
    async with serve(data_dir=data) as client:
        await begin(client, prompt="A cat")
        found, wanted = modes_in(data), only_for_us(data)

    assert found == wanted | {".": "755", "notes.txt": "644"}


async def test_our_own_process_makes_no_file_that_others_may_read(gemini_url: str, tmp_path: Path) -> None:
    async with process(gemini_url, data_dir=tmp_path) as (service, _):
        status = Path(f"/proc/{service.pid}/status").read_text()

    assert "Umask:\t0077\n" in status


# Storages that fail.


def problem(response: httpx2.Response, *hidden: object) -> tuple[int, str, str]:
    """Status, code and part of a storage's problem, in which nothing is said of where it is."""
    document = response.json()
    for one in hidden:
        assert str(one) not in response.text
    assert {"detail", "requestId"} <= document.keys()
    return response.status_code, document["code"], document["part"]


async def single(client: httpx2.AsyncClient) -> bool:
    """Whether images without a chat are made."""
    return (await client.post("/generate-image", json={"prompt": "A cat", "imageSize": "1K"})).is_success


async def test_a_folder_that_cannot_be_written_is_named_as_the_database(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    async with serve(data_dir=tmp_path / "file") as client:
        response = await client.post("/chats", json={})
        alone = await single(client)

    assert problem(response, tmp_path) == (503, "storage_unavailable", "database")
    assert int(response.headers["retry-after"]) >= 1
    assert alone


async def test_a_blob_store_that_cannot_be_is_named(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "blobs").write_text("in the way")
    async with serve(data_dir=tmp_path) as client:
        response = await client.post("/chats", json={})
        alone = await single(client)

    assert problem(response, tmp_path) == (503, "storage_unavailable", "blobs")
    assert alone


@pytest.mark.parametrize(
    ("knobs", "part"),
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
async def test_a_storage_that_is_nowhere_is_named_and_nothing_of_its_address(
    serve: Serve, tmp_path: Path, knobs: Knobs, part: str
) -> None:
    async with serve(**{"data_dir": tmp_path, **knobs}) as client:
        response = await client.post("/chats", json={})
        alone = await single(client)

    assert problem(response, "secret", "127.0.0.1") == (503, "storage_unavailable", part)
    assert alone


async def test_a_disk_that_is_full_is_said_before_anything_is_paid(
    serve: Serve, gemini: Emulator, small_disk: Path
) -> None:
    async with serve(data_dir=small_disk) as client:
        chat = await begin(client)
        first = drawn(await chat.say("A cat"))
        with (small_disk / "filler").open("wb") as filler, suppress(OSError):
            for _ in range(1000):
                filler.write(bytes(100_000))
        full = await chat.say("Blue, please")
        read = await chat.read()
        image = (await client.get(f"{chat.url}/turns/1/image")).content
        alone = await single(client)
        (small_disk / "filler").unlink()
        after = await chat.say("Blue, please")

    assert problem(full, small_disk) == (507, "storage_full", "blobs")
    assert len(gemini.calls) == 3
    assert (read["lastTurn"], image) == (1, first)
    assert alone
    assert after.json()["turn"] == 2


async def test_a_disk_that_became_read_only(serve: Serve, gemini: Emulator, small_disk: Path) -> None:
    async with serve(data_dir=small_disk) as client:
        chat = await begin(client, prompt="A cat")
    await anyio.run_process(["mount", "-o", "remount,ro", str(small_disk)])
    async with serve(data_dir=small_disk) as client:
        turn = await Chat(client, chat.url).say("Blue, please")
        alone = await single(client)
        await anyio.run_process(["mount", "-o", "remount,rw", str(small_disk)])
        after = await Chat(client, chat.url).say("Blue, please")

    assert problem(turn, small_disk)[:2] == (503, "storage_unavailable")
    assert alone
    assert after.json()["turn"] == 2


async def test_a_disk_that_fills_while_gemini_draws(serve: Serve, gemini: Emulator, small_disk: Path) -> None:
    """
    The image is lost, and its caller knows that it may have cost; what was there before is there still.
    """
    async with serve(data_dir=small_disk) as client:
        chat = await begin(client)
        await chat.say("A cat")
        gemini.faults.append(Fault(image_base64=base64.b64encode(noise(1, 30_000_000)).decode()))
        full = await chat.say("Blue, please")
        read = await chat.read()
        after = await chat.say("Red, please")

    assert problem(full, small_disk) == (507, "storage_full", "blobs")
    assert full.headers["x-should-retry"] == "false"
    assert (read["lastTurn"], read["turnInProgress"]) == (1, False)
    assert after.json()["turn"] == 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """A file system of 24 MB."""
    if os.geteuid() != 0 or os.system(f"mount -t tmpfs -o size=24m none {tmp_path} 2>/dev/null") != 0:
        pytest.skip("mounting a small file system takes root")
    yield tmp_path
    os.system(f"umount -l {tmp_path}")


async def test_a_lost_image_is_told_from_a_store_that_does_not_answer(
    serve: Serve, gemini: Emulator, tmp_path: Path
) -> None:
    """
    A chat whose latest image is gone goes on with what there is.
    """
    async with serve(data_dir=tmp_path) as client:
        chat = await begin(client)
        first = drawn(await chat.say("A cat"))
        second = drawn(await chat.say("Blue, please"))
        name = hashlib.sha256(second).hexdigest()
        (tmp_path / "blobs" / name[:2] / name).unlink()
        response = await client.get(f"{chat.url}/turns/2/image")
        third = await chat.say("Larger")
        fourth = await chat.say("Larger still")

    assert problem(response, tmp_path) == (500, "storage_damaged", "blobs")
    warning, missing = third.json()["warnings"]
    assert missing.startswith("1 of them did not")
    assert warning.endswith("were sent as references, because content of the chat is missing from the storage.")
    assert [images_in(content) for content in contents(gemini, 2)] == [[first]]
    assert fourth.json()["warnings"] == []


async def flip_a_bit(storage: Knobs, content: bytes, place: int) -> None:
    """Damage a stored file behind the service's back; its size stays."""
    damaged = bytearray(content)
    damaged[place] ^= 1
    name = hashlib.sha256(content).hexdigest()
    if "blob_url" in storage:
        store = from_url(storage["blob_url"], client_options={"allow_http": True})
        await store.put_async(f"{name[:2]}/{name}", bytes(damaged))
    else:
        path = Path(storage["data_dir"]) / "blobs" / name[:2] / name
        assert path.read_bytes() == content
        path.write_bytes(damaged)


@pytest.mark.parametrize("place", [0, -1])
async def test_a_small_file_that_was_changed_is_not_sent(
    serve: Serve, gemini: Emulator, storage: Knobs, place: int
) -> None:
    """
    Neither to its owner nor to Gemini: the chat goes on without it.
    """
    async with serve(**storage) as client:
        chat = await begin(client)
        first = drawn(await chat.say("A cat"))
        second = drawn(await chat.say("Blue, please"))
        await flip_a_bit(storage, second, place)
        response = await client.get(f"{chat.url}/turns/2/image")
        third = await chat.say("Larger")

    assert problem(response) == (500, "storage_damaged", "blobs")
    warning, missing = third.json()["warnings"]
    assert missing.startswith("1 of them did not")
    assert warning.endswith("were sent as references, because content of the chat is missing from the storage.")
    assert [images_in(content) for content in contents(gemini)] == [[first]]
    assert len(gemini.calls) == 3


@pytest.mark.parametrize("place", [100_000, 5_000_000])
async def test_a_large_file_that_was_changed_never_arrives_whole(
    serve: Serve, gemini: Emulator, storage: Knobs, place: int
) -> None:
    """
    What is wrong is found out on the way: the answer stays short of its length, and so does the request to Gemini.
    """
    gemini.faults.append(Fault(times=2, image_base64=base64.b64encode(noise(1, 6_000_000)).decode()))
    async with serve(**storage) as client:
        chat = await begin(client)
        image = drawn(await chat.say("A cat"))
        await flip_a_bit(storage, image, place)
        async with client.stream("GET", f"{chat.url}/turns/1/image") as response:
            with pytest.raises(httpx2.RemoteProtocolError):
                await response.aread()
        part = await client.get(f"{chat.url}/turns/1/image", headers={"Range": "bytes=10-19"})
        turn = await chat.say("Larger")
        again = await begin(client, prompt="A cat")  # the same image, by the fault above
        healed = (await client.get(f"{chat.url}/turns/1/image")).content

    assert response.headers["content-length"] == str(len(image))
    assert part.content == image[10:20]
    assert problem(turn) == (500, "storage_damaged", "blobs")
    assert again.url
    assert healed == image
    assert len(gemini.calls) == 2


async def test_all_images_lost_is_said_before_anything_is_paid(serve: Serve, gemini: Emulator, tmp_path: Path) -> None:
    async with serve(data_dir=tmp_path) as client:
        chat = await begin(client, prompt="A cat")
        for path in (tmp_path / "blobs").glob("*/*"):
            path.unlink()
        response = await chat.say("Blue, please")

    assert problem(response, tmp_path) == (500, "storage_damaged", "blobs")
    assert len(gemini.calls) == 1


async def test_a_damaged_database_is_no_busy_one(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "chats.db").write_bytes(b"This is not a database. " * 1000)
    async with serve(data_dir=tmp_path) as client:
        response = await client.post("/chats", json={})

    assert problem(response, tmp_path) == (500, "storage_damaged", "database")


async def test_a_damaged_document_is_told(serve: Serve, gemini: Emulator, storage: Knobs) -> None:
    async with serve(**storage) as client:
        chat = await begin(client, prompt="A cat")
        await execute(storage, "UPDATE turns SET document = '{}'")
        response = await client.get(chat.url)

    assert problem(response) == (500, "storage_damaged", "database")


@pytest.fixture
def database_in(_postgres: Postgres) -> Callable[[str], str]:
    """What makes a database in an encoding, and says its URL."""
    return _postgres.database


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
async def test_what_is_said_comes_back_from_a_database_of_another_encoding(
    serve: Serve, gemini: Emulator, tmp_path: Path, database_in: Callable[[str], str], encoding: str
) -> None:
    """
    A cluster that was made without a locale has SQL_ASCII, and hands out bytes to whoever does not say otherwise.
    """
    async with serve(database_url=database_in(encoding), data_dir=tmp_path) as client:
        chat = await begin(client, prompt="Drei Äpfel für Zoë")
        read = await chat.read()

    assert read["turns"][0]["prompt"] == "Drei Äpfel für Zoë"


@pytest.mark.slow
async def test_a_database_that_says_nothing_keeps_nobody_for_long(
    serve: Serve, gemini_url: str, tmp_path: Path
) -> None:
    """
    All who wait learn of the same attempt, and a process that is told to stop stops.
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

    assert {problem(response) for response in responses} == {(503, "storage_unavailable", "database")}
    assert took < 12


LOCK_WAIT_SECONDS = 0.5


@pytest.fixture
def impatient(storage: Knobs) -> Knobs:
    """A storage whose database waits half a second for a lock, and not ten."""
    if "database_url" in storage:
        wait = f"?options=-c%20lock_timeout%3D{LOCK_WAIT_SECONDS * 1000:.0f}ms"
        return {**storage, "database_url": storage["database_url"] + wait}
    file = Path(storage["data_dir"]) / "chats.db"
    return {**storage, "database_url": f"sqlite:///{file}?timeout={LOCK_WAIT_SECONDS}"}


@contextmanager
def locked(storage: Knobs) -> Iterator[None]:
    """Somebody else keeps the database to themselves. (SQLite can be read meanwhile.)"""
    other: sqlite3.Connection | psycopg.Connection[Any]
    if storage["database_url"].startswith("sqlite"):
        other = sqlite3.connect(Path(storage["data_dir"]) / "chats.db", isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
    else:
        other = psycopg.connect(storage["database_url"])
        other.execute("LOCK TABLE chats IN ACCESS EXCLUSIVE MODE")
    with closing(other):
        yield
        other.rollback()


async def timed(asking: Awaitable[httpx2.Response]) -> tuple[httpx2.Response, float]:
    began = time.monotonic()
    return await asking, time.monotonic() - began


async def test_a_locked_database_is_told_after_one_wait(serve: Serve, gemini: Emulator, impatient: Knobs) -> None:
    """
    Nobody waits for the cleaning up that follows; and when the lock is gone, everything is as before.
    """
    async with serve(**impatient, chat_lease_seconds=600) as client:
        chat = await begin(client, prompt="A cat")
        asked: dict[str, Callable[[], Awaitable[httpx2.Response]]] = {
            "turn": lambda: chat.say("Blue, please"),
            "create": lambda: client.post("/chats", json={}),
            "create with a turn": lambda: client.post("/chats", json={"prompt": "A cat"}),
            "fork": lambda: client.post(f"{chat.url}/fork"),
            "delete": lambda: client.delete(chat.url),
            "list": lambda: client.get("/chats"),
            "get": lambda: client.get(chat.url),
            "image": lambda: client.get(f"{chat.url}/turns/1/image"),
        }
        with locked(impatient):
            answers = {name: await timed(ask()) for name, ask in asked.items()}
        after = await chat.say("Blue, please")

    if impatient["database_url"].startswith("sqlite"):
        assert [answers.pop(name)[0].status_code for name in ("list", "get", "image")] == [200] * 3
    assert {problem(answer) for answer, _ in answers.values()} == {(503, "storage_unavailable", "database")}
    # Another transaction of this process may be waiting in front.
    slow = {name: seconds for name, (_, seconds) in answers.items() if seconds > 5 * LOCK_WAIT_SECONDS}
    assert slow == {}
    assert after.json()["turn"] == 2
    assert len(gemini.calls) == 2


async def test_a_failed_turn_is_told_before_the_chat_is_cleaned_up(
    serve: Serve, gemini: Emulator, impatient: Knobs
) -> None:
    """
    The database is locked while Gemini draws. Its refusal does not wait for the lease, which is given back later.
    """
    async with serve(**impatient, chat_lease_seconds=600, upstream_attempts=1) as client:
        chat = await begin(client)
        gemini.faults.append(Fault(status=400, delay_seconds=0.3))
        asking = asyncio.create_task(timed(chat.say("A cat")))
        await called(gemini)
        with locked(impatient):
            failed, seconds = await asking
        after = await chat.say("A cat")
        while after.status_code == 409:
            await asyncio.sleep(0.1)
            after = await chat.say("A cat")

    assert failed.status_code != 503
    assert seconds < 0.3 + LOCK_WAIT_SECONDS + 2
    assert after.json()["turn"] == 1


async def test_many_who_find_the_database_locked_do_not_wait_one_after_another(
    serve: Serve, gemini: Emulator, impatient: Knobs
) -> None:
    """
    Eight writers together take less than half of eight waits, whatever the first ones' leases are waiting for.
    """
    async with serve(**impatient) as client:
        chat = await begin(client)
        # Eight connections are open before the clock starts: the waits in the database are what is measured.
        await asyncio.gather(*(client.get(chat.url) for _ in range(8)))
        with locked(impatient):
            started = time.monotonic()
            found = await asyncio.gather(
                *(client.post(f"{chat.url}/turns", json={"prompt": "A cat"}) for _ in range(8))
            )
            seconds = time.monotonic() - started

    assert {one.status_code for one in found} == {503}
    assert seconds < 4 * LOCK_WAIT_SECONDS
    assert not gemini.calls


async def test_a_new_service_finds_its_database_locked_after_one_wait(serve: Serve, tmp_path: Path) -> None:
    """
    An SQLite database that is locked in its old mode cannot even be read.
    """
    file = tmp_path / "chats.db"
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("CREATE TABLE other (x)")
        other.execute("BEGIN EXCLUSIVE")
        async with serve(data_dir=tmp_path, database_url=f"sqlite:///{file}?timeout=1") as client:
            response, seconds = await timed(client.get("/chats"))
            other.execute("ROLLBACK")
            after = await client.get("/chats")

    assert problem(response) == (503, "storage_unavailable", "database")
    assert seconds < 1.9
    assert after.status_code == 200


async def test_a_lost_signature_leaves_the_images(serve: Serve, gemini: Emulator, tmp_path: Path) -> None:
    async with serve(data_dir=tmp_path) as client:
        chat = await begin(client)
        first = drawn(await chat.say("A cat"))
        for path in (tmp_path / "blobs").glob("*/*"):
            if path.stat().st_size == 256:
                path.write_bytes(path.read_bytes()[:-1])
        second = await chat.say("Blue, please")

    assert "missing from the storage" in second.json()["warnings"][0]
    assert [images_in(content) for content in contents(gemini)] == [[first]]


async def test_a_blob_store_that_goes_away(serve: Serve, gemini: Emulator, tmp_path: Path) -> None:
    blobs = tmp_path / "blobs"
    async with serve(data_dir=tmp_path) as client:
        chat = await begin(client)
        first = drawn(await chat.say("A cat"))
        blobs.rename(tmp_path / "elsewhere")
        gone = await chat.say("Blue, please")
        read = await chat.read()
        alone = await single(client)
        (tmp_path / "elsewhere").rename(blobs)
        after = await chat.say("Blue, please")
        image = (await client.get(f"{chat.url}/turns/1/image")).content

    assert problem(gone, tmp_path) == (503, "storage_unavailable", "blobs")
    assert read["lastTurn"] == 1
    assert alone
    assert (after.json()["turn"], image) == (2, first)


@pytest.fixture
async def own_servers(tmp_path: Path) -> AsyncGenerator[tuple[Postgres, Any, Knobs]]:
    """PostgreSQL and S3 of this test alone, which may stop them."""
    with postgres() as database, s3() as buckets:
        yield (
            database,
            buckets,
            {"database_url": database.database(), "blob_url": buckets.bucket(), "data_dir": tmp_path},
        )


async def test_a_database_that_goes_away_and_comes_back(
    serve: Serve, gemini: Emulator, own_servers: tuple[Postgres, Any, Knobs]
) -> None:
    """
    Gone before a turn, nothing is paid. Gone while Gemini draws, the turn is kept as soon as it is back.
    """
    database, _, storage = own_servers
    async with serve(**storage) as client:
        chat = await begin(client)
        first = drawn(await chat.say("A cat"))
        database.stop()
        gone = await chat.say("Blue, please")
        read = await client.get(chat.url)
        alone = await single(client)
        database.start()
        while not (await client.get(chat.url)).is_success:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        gemini.faults.append(Fault(delay_seconds=0.5))
        asking = asyncio.create_task(chat.say("Red, please"))
        await asyncio.sleep(0.3)
        database.stop()
        await asyncio.sleep(1)
        database.start()
        second = await asking
        found = await chat.read()
        image = (await client.get(f"{chat.url}/turns/1/image")).content

    for response in (gone, read):
        assert problem(response, "127.0.0.1", "images@") == (503, "storage_unavailable", "database")
    assert alone
    assert second.json()["turn"] == 2
    assert (found["lastTurn"], image) == (2, first)
    assert len(gemini.calls) == 3


async def test_a_bucket_that_there_is_not(serve: Serve, gemini: Emulator, bucket: str, tmp_path: Path) -> None:
    """
    A file that it does not have is not lost: there is no telling.
    """
    gone = "s3://nothing-of-that-name/chats"
    async with serve(data_dir=tmp_path, blob_url=bucket) as client:
        chat = await begin(client, prompt="A cat")
    async with serve(data_dir=tmp_path, blob_url=gone) as client:
        image = await client.get(f"{chat.url}/turns/1/image")
        turn = await Chat(client, chat.url).say("Blue, please")
        alone = await single(client)

    for response in (image, turn):
        assert problem(response, "127.0.0.1", "nothing-of") == (503, "storage_unavailable", "blobs")
    assert alone
    assert len(gemini.calls) == 2


@pytest.mark.slow
async def test_a_bucket_that_goes_away(
    serve: Serve, gemini: Emulator, own_servers: tuple[Postgres, Any, Knobs]
) -> None:
    _, buckets, storage = own_servers
    async with serve(**storage) as client:
        chat = await begin(client)
        await chat.say("A cat")
        buckets.stop()
        image = await client.get(f"{chat.url}/turns/1/image")
        gone = await chat.say("Blue, please")
        read = await chat.read()
        alone = await single(client)

    for response in (image, gone):
        assert problem(response, "127.0.0.1") == (503, "storage_unavailable", "blobs")
    assert read["turnInProgress"] is False
    assert alone


async def test_without_chats_nothing_is_written(serve: Serve, gemini: Emulator, tmp_path: Path) -> None:
    async with serve(data_dir=tmp_path / "data") as client:
        assert await single(client)

    assert list(tmp_path.iterdir()) == []


# Long texts, and how much one caller may keep.

LONG = "Draw in the style of 水墨画, \x00 and \ud83d alone included. " * 1000


async def fetched(storage: Knobs, statement: str) -> list[Any]:
    """What a query finds behind the service's back."""
    if "database_url" in storage:
        async with await psycopg.AsyncConnection.connect(storage["database_url"], autocommit=True) as connection:
            return await (await connection.execute(statement.encode())).fetchall()
    with sqlite3.connect(Path(storage["data_dir"]) / "chats.db") as database:
        return database.execute(statement).fetchall()


async def kept_characters(storage: Knobs) -> int:
    """How many characters of documents and texts the database holds."""
    sums = await fetched(
        storage,
        "SELECT (SELECT coalesce(sum(length(document)), 0) FROM chats)"
        " + (SELECT coalesce(sum(length(document)), 0) FROM turns)"
        " + (SELECT coalesce(sum(length(text)), 0) FROM texts)",
    )
    return int(sums[0][0])


async def test_lists_have_an_excerpt_of_a_long_system_instruction(serve: Serve, storage: Knobs) -> None:
    instruction = LONG.encode("utf-8", "replace").decode()
    async with serve(**storage) as client:
        for _ in range(3):
            chat = await begin(client, systemInstruction=instruction)
        short = await begin(client, systemInstruction="Short.")
        listed = await client.get("/chats", params={"limit": 100})
        whole = await chat.read()

    found = [one["defaults"]["systemInstruction"] for one in listed.json()["chats"]]
    assert found == ["Short.", *[f"{instruction[:200]}…"] * 3]
    assert short.url == listed.json()["chats"][0]["url"]
    assert len(listed.content) < 10_000
    assert whole["defaults"]["systemInstruction"] == instruction


async def with_a_long_turn(store: ChatStore) -> Chats:
    """A chat whose system instruction and whose only turn are long."""
    empty = await store.add("anna", ChatDefaults(system_instruction=LONG))
    chat = await store.turns.lease(empty.id, "anna", "me")
    turn = Turn(1, TurnState.SUCCEEDED, LONG, "any", text=LONG, generation_id="gen_1")
    await store.turns.save(chat, "me", turn, None)
    return await store.get(chat.id, "anna")


async def test_forks_share_long_texts(storage: Knobs) -> None:
    async with opened(storage) as store:
        chat = await with_a_long_turn(store)
        before = await kept_characters(storage)
        forks = [await store.fork(chat.id, "anna", place % 2) for place in range(12)]
        after = await kept_characters(storage)
        fork = await store.get(forks[1].id, "anna")
        leased = await store.turns.lease(forks[1].id, "anna", "other")

    assert chat.defaults.system_instruction == LONG
    assert after - before < before / 10
    assert fork.defaults == leased.defaults == chat.defaults
    assert [(one.prompt, one.text) for one in fork.turns] == [(LONG, LONG)]


async def test_a_sweep_removes_long_texts_that_nobody_refers_to(storage: Knobs) -> None:
    async with opened(storage) as store:
        chat = await with_a_long_turn(store)
        fork = await store.fork(chat.id, "anna", None)
        await store.remove(chat.id, "anna")
        await execute(storage, f"UPDATE texts SET touched_at = touched_at - {GRACE_SECONDS + 1}")
        await store.cleanup()
        kept = await store.get(fork.id, "anna")
        await store.remove(fork.id, "anna")
        await store.cleanup()
        left = await kept_characters(storage)

    assert (kept.defaults.system_instruction, kept.turns[0].prompt) == (LONG, LONG)
    assert left == 0


async def test_chats_of_the_version_before_go_on(serve: Serve, gemini: Emulator, storage: Knobs) -> None:
    """
    Its long texts are in the rows of chats and turns. The first fork moves them to where forks share them.
    """
    instruction = "Draw with ink. " * 1000
    async with serve(**storage) as client:
        chat = await begin(client, systemInstruction=instruction)
        assert (await chat.say("A cat. " * 1000)).is_success
    (long_text,) = [text for (text,) in await fetched(storage, "SELECT text FROM texts") if text.startswith("{")]
    defaults = f'{{"system_instruction": "{instruction}", "image_size": "1K"}}'
    for statement in (
        f"UPDATE turns SET document_digest = NULL, document = '{long_text}'",
        f"""UPDATE chats SET instruction_digest = NULL, document = '{{"defaults": {defaults}, "title": "A cat."}}'""",
        "DROP INDEX turns_document_digest_idx",
        "DROP INDEX chats_instruction_digest_idx",
        *(f"ALTER TABLE {one} DROP COLUMN bytes" for one in ("chats", "turns")),
    ):
        await execute(storage, statement)
    await drop_references(storage)
    await execute(storage, "DROP TABLE texts")
    await execute(storage, "UPDATE alembic_version SET version_num = '0001'")

    async with serve(**storage) as client:
        chat = Chat(client, chat.url)
        listed = (await client.get("/chats")).json()["chats"]
        before = await chat.read()
        forks = [(await client.post(f"{chat.url}/fork")).json() for _ in range(3)]
        third = await Chat(client, forks[-1]["url"]).say("Blue, please")
        size = await kept_characters(storage)

    assert listed[0]["defaults"]["systemInstruction"] == f"{instruction[:200]}…"
    assert before["defaults"]["systemInstruction"] == instruction
    assert [one["turns"][0]["prompt"] for one in forks] == [before["turns"][0]["prompt"]] * 3
    assert third.status_code == 200
    assert gemini.calls[-1].body["systemInstruction"]["parts"] == [{"text": instruction}]
    assert size < 2 * (len(instruction) + len(long_text)) + 10_000


async def drop_references(storage: Knobs) -> None:
    """Remove the columns that refer to `texts`."""
    if "database_url" in storage:
        await execute(storage, "ALTER TABLE chats DROP COLUMN instruction_digest")
        await execute(storage, "ALTER TABLE turns DROP COLUMN document_digest")
        return
    with closing(sqlite3.connect(Path(storage["data_dir"]) / "chats.db")) as database:
        database.executescript(
            "PRAGMA writable_schema = ON;"
            "UPDATE sqlite_schema SET sql = replace(replace(sql, "
            "', instruction_digest VARCHAR(64) CONSTRAINT chats_instruction_digest_fkey REFERENCES texts (digest)',"
            "''), "
            "', document_digest VARCHAR(64) CONSTRAINT turns_document_digest_fkey REFERENCES texts (digest)', '');"
        )


async def test_one_caller_keeps_so_many_chats(serve: Serve, gemini: Emulator, storage: Knobs) -> None:
    keys = "anna:anna-secret-anna-secret,ben:ben-secret-ben-secret"
    async with serve(**storage, max_chats_per_caller=3, service_api_keys=keys) as client:
        client.headers["X-API-Key"] = "anna-secret-anna-secret"
        made = await asyncio.gather(*(client.post("/chats", json={}) for _ in range(8)))
        url = next(one.headers["location"] for one in made if one.is_success)
        fork = await client.post(f"{url}/fork")
        paid = await client.post("/chats", json={"prompt": "A cat"})
        calls = len(gemini.calls)
        turn = await client.post(f"{url}/turns", json={"prompt": "A cat"})
        other = await client.post("/chats", json={}, headers={"X-API-Key": "ben-secret-ben-secret"})
        await client.delete(url)
        again = await client.post("/chats", json={})

    assert sorted(one.status_code for one in made) == [201] * 3 + [409] * 5
    for refused in (fork, paid):
        assert (refused.status_code, refused.json()["code"]) == (409, "chat_limit_reached")
        assert (refused.json()["limit"], refused.json()["most"]) == ("chats", 3)
        assert refused.headers["x-should-retry"] == "false"
    assert calls == 0
    assert (turn.status_code, other.status_code, again.status_code) == (200, 201, 201)


async def test_chats_that_have_expired_count_no_more(serve: Serve, storage: Knobs) -> None:
    async with serve(**storage, max_chats_per_caller=1, chat_ttl="1s") as client:
        first = await client.post("/chats", json={})
        await asyncio.sleep(1.05)
        second = await client.post("/chats", json={})

    assert (first.status_code, second.status_code) == (201, 201)


async def test_one_caller_keeps_so_many_bytes(serve: Serve, gemini: Emulator, storage: Knobs) -> None:
    """
    Uploads, images and texts count; what would be too much is refused before anything is paid.
    """
    upload = noise(2, 300_000)
    async with serve(**storage, max_stored_bytes_per_caller=900_000) as client:
        chat = await begin(client)
        first = await chat.upload("A cat", upload)
        fork = await client.post(f"{chat.url}/fork")
        calls = len(gemini.calls)
        refused = [
            await chat.upload("Another", noise(3, 300_000)),
            await client.post(f"{chat.url}/fork"),
            await client.post(
                "/chats", json={"prompt": "A cat", "referenceImages": [{"data": base64.b64encode(upload).decode()}]}
            ),
            await client.post("/chats", json={"systemInstruction": "水" * 100_000}),
        ]
        called_again = len(gemini.calls)
        chats = (await client.get("/chats")).json()["chats"]
        await client.delete(fork.json()["url"])
        more = await client.post(f"{chat.url}/fork")

    assert (first.status_code, fork.status_code) == (200, 201)
    assert {(one.status_code, one.json()["code"], one.json()["limit"]) for one in refused} == {
        (409, "chat_limit_reached", "bytes")
    }
    assert (calls, called_again, len(chats)) == (1, 1, 2)
    assert more.status_code == 201


# Migrations.


@pytest.fixture
async def database(storage: Knobs) -> AsyncGenerator[Database]:
    database = Database.from_settings(settings_for("http://127.0.0.1:1", **storage))
    yield database
    await database.aclose()


async def test_migrations_make_the_tables_that_the_code_has(database: Database) -> None:
    def differences(connection: Connection) -> Any:
        return alembic.autogenerate.compare_metadata(MigrationContext.configure(connection), metadata)

    await migrate(database)

    assert await database.read(differences) == []


async def test_replicas_that_start_together_migrate_once(storage: Knobs) -> None:
    databases = [Database.from_settings(settings_for("http://127.0.0.1:1", **storage)) for _ in range(4)]

    await asyncio.gather(*(migrate(one) for one in databases))

    for one in databases:
        await one.aclose()


async def test_who_may_not_migrate_says_what_is_missing(database: Database) -> None:
    with pytest.raises(StorageUnavailable, match="Run the migrations"):
        await migrate(database, allowed=False)

    await migrate(database)
    await migrate(database, allowed=False)


async def test_a_database_of_a_later_version_is_left_alone(database: Database, storage: Knobs) -> None:
    await migrate(database)
    await execute(storage, "UPDATE alembic_version SET version_num = '9999'")

    with pytest.raises(ServiceError, match="newer than this service"):
        await migrate(database)


def test_the_newest_migration_is_the_one_that_is_asked_for() -> None:
    folder = Path(__file__).parent.parent / "app" / "store" / "migrations"

    assert ScriptDirectory(str(folder)).get_heads() == [HEAD]


@pytest.mark.parametrize(
    ("written", "seconds"), [("30d", 2_592_000), ("12h", 43_200), ("90m", 5_400), ("45", 45), ("P1D", 86_400), ("0", 0)]
)
def test_how_long_chats_are_kept_can_be_written_in_several_ways(written: str, seconds: int) -> None:
    assert Settings(_env_file=None, gemini_api_key="x", chat_ttl=written).chat_ttl.total_seconds() == seconds
