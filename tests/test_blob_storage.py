"""Blobs are stored once, read in pieces, and deleted when no chat refers to them."""

import asyncio
import base64
import hashlib
import os
import sqlite3
from pathlib import Path

import httpx2
import pytest

from app.domain.chat import Chat as Chats
from app.domain.chat import ChatDefaults, Turn, TurnState
from app.domain.errors import ChatNotFound
from app.domain.generation import Image
from app.emulator import Emulator, Fault
from app.lib.base64_json import BufferContent
from app.store.blobs import GRACE_SECONDS
from app.store.chats import ChatStore
from tests.conftest import Serve, image_file, noise_jpeg
from tests.storages import Overrides
from tests.stored_chats import blob_files, execute, open_store
from tests.test_chats import begin


async def test_equal_bytes_are_stored_once(serve: Serve, gemini: Emulator, tmp_path: Path) -> None:
    """
    Two chats and a fork contain the same upload. Each blob is stored once, under the digest of its bytes.
    """
    logo = image_file(colour="red")
    image = base64.b64encode(noise_jpeg(1, 100_000)).decode()
    gemini.faults.append(Fault(times=4, image_base64=image))
    async with serve(data_dir=tmp_path) as client:
        one, two = await begin(client), await begin(client)
        for chat in (one, two):
            await chat.upload("A mug", logo)
            await chat.say("Larger")
        await client.post(f"{one.url}/fork")

    files = blob_files({"data_dir": tmp_path})
    assert all(hashlib.sha256(content).hexdigest() == name for name, content in files.items())
    # The logo, the image, and in each of two turns a signature of the text and one of the image.
    assert len(files) == 2 + 4
    with sqlite3.connect(tmp_path / "chats.db") as database:
        known = database.execute("SELECT digest, bytes FROM blobs").fetchall()
    assert dict(known) == {name: len(content) for name, content in files.items()}


async def test_a_cleanup_deletes_only_unreferenced_blobs(storage: Overrides) -> None:
    def turn(number: int, *images: bytes) -> Turn:
        image = Image(BufferContent(images[0]), "image/png", 1, 1)
        return Turn(number, TurnState.SUCCEEDED, "A cat", "any", image=image, generation_id=f"gen_{number}")

    shared, alone = os.urandom(100_000), os.urandom(100_000)
    async with open_store(storage) as store:
        chat = await store.turns.lease((await store.add("anna", ChatDefaults())).id, "anna", "1")
        await store.turns.save(chat, "1", turn(1, shared), None)
        fork = await store.fork(chat.id, "anna", None)
        chat = await store.turns.lease(chat.id, "anna", "2")
        await store.turns.save(chat, "2", turn(2, alone), None)
        await store.remove(chat.id, "anna")
        early = await store.cleanup()
        await execute(storage, f"UPDATE blobs SET touched_at = touched_at - {GRACE_SECONDS + 1}")
        result = await store.cleanup()
        found = (await store.get(fork.id, "anna")).turns[0].image
        assert found
        stored = b"".join([piece async for piece in found.content])
        there = [await store.blobs.has(hashlib.sha256(one).hexdigest(), len(one)) for one in (shared, alone)]

    assert (early.blobs, result.blobs) == (0, 1)
    assert stored == shared
    assert there == [True, False]


async def test_bytes_can_be_stored_again_after_a_cleanup(storage: Overrides) -> None:
    image = Image(BufferContent(os.urandom(1000)), "image/png", 1, 1)
    async with open_store(storage) as store:
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


async def test_a_service_deletes_expired_chats_by_itself(serve: Serve, gemini: Emulator, storage: Overrides) -> None:
    """
    An expired chat is not found, even before the cleanup. The cleanup deletes its row, and later its blobs.
    """
    async with (
        serve(**storage, chat_ttl="2s", chat_cleanup_interval_seconds=1) as client,
        open_store(storage, chat_ttl="0") as store,
        asyncio.timeout(20),
    ):
        chat = await begin(client, prompt="A cat")
        while (found := await client.get(chat.url)).is_success:  # noqa: ASYNC110 - time has no event
            await asyncio.sleep(0.05)
        while await store.page("local", 100, None):  # noqa: ASYNC110 - nor has the cleanup
            await asyncio.sleep(0.05)

    assert found.status_code == 404


async def test_a_service_cleans_up_only_at_its_interval(serve_alone: Serve, capfd: pytest.CaptureFixture[str]) -> None:
    async with serve_alone(chat_cleanup_interval_seconds=1, log_format="json") as client:
        await begin(client)
        await asyncio.sleep(2.5)

    assert 1 <= capfd.readouterr().err.count('"message": "cleanup"') <= 4


async def test_a_cleanup_deletes_partial_files(tmp_path: Path) -> None:
    folder = tmp_path / "blobs" / "ab"
    folder.mkdir(parents=True)
    partial, complete = folder / ("ab" * 32 + "#1"), folder / ("ab" * 32)
    partial.write_bytes(b"half")
    complete.write_bytes(b"complete")
    os.utime(partial, (1, 1))

    async with open_store({"data_dir": tmp_path}) as store:
        result = await store.cleanup()

    assert result.unfinished == 1
    assert (partial.exists(), complete.exists()) == (False, True)


async def test_large_blobs_are_written_and_read_in_pieces(storage: Overrides) -> None:
    """
    The blob is larger than the limit for one upload request.
    """
    data = os.urandom(20_000_001)
    async with open_store(storage) as store:
        digest = hashlib.sha256(data).hexdigest()
        await store.blobs.put(digest, BufferContent(data))
        blob = store.blobs.blob(digest, len(data))
        pieces = [piece async for piece in blob]
        middle = b"".join([piece async for piece in blob.between(5_000_000, 9_999_999)])

    assert b"".join(pieces) == data
    assert all(len(piece) % 3 == 0 for piece in pieces[:-1])
    assert max(map(len, pieces)) < 1_000_000
    assert middle == data[5_000_000:9_999_999]


async def test_bytes_that_are_being_deleted_are_stored_under_another_name(storage: Overrides) -> None:
    """
    The blob is marked for deletion when the same bytes are needed again.
    """
    image = Image(BufferContent(os.urandom(1000)), "image/png", 1, 1)

    async def added(store: ChatStore, number: int) -> Chats:
        chat = await store.turns.lease((await store.add("anna", ChatDefaults())).id, "anna", str(number))
        await store.turns.save(chat, str(number), Turn(1, TurnState.SUCCEEDED, "A cat", "any", image=image), None)
        return chat

    async with open_store(storage) as store:
        await store.remove((await added(store, 1)).id, "anna")
        await execute(storage, f"UPDATE blobs SET touched_at = touched_at - {GRACE_SECONDS + 1}, doomed = TRUE")
        chat = await added(store, 2)
        result = await store.cleanup()
        found = (await store.get(chat.id, "anna")).turns[0].image
        assert found
        stored = b"".join([piece async for piece in found.content])

    assert result.blobs == 0
    assert stored == image.content.head(1000)


async def test_a_fork_during_a_deletion_is_complete_or_fails(storage: Overrides) -> None:
    """
    The chat is forked and deleted at the same time, ten times. A fork that succeeds has all blobs of the chat.
    """
    image = Image(BufferContent(os.urandom(1000)), "image/png", 1, 1)
    async with open_store(storage) as store:
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


async def test_clients_that_do_not_read_an_image_use_little_memory(
    serve: Serve, gemini: Emulator, tmp_path: Path
) -> None:
    """
    Their memory is counted, and does not depend on the size of the file.
    """
    gemini.faults.append(Fault(image_base64=base64.b64encode(noise_jpeg(1, 6_000_000)).decode()))
    async with serve(data_dir=tmp_path, max_buffered_bytes=40_000_000, queue_timeout_seconds=0.5) as client:
        chat = await begin(client, prompt="A cat")
        host, port = client.base_url.host, client.base_url.port
        request = f"GET {chat.url}/turns/1/image HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        readers = [await asyncio.open_connection(host, port, limit=1024) for _ in range(30)]
        for _, writer in readers:
            writer.write(request)
        held = await _response_memory(client, 15_000_000)
        beyond = await client.get(f"{chat.url}/turns/1/image")
        for _, writer in readers:
            writer.transport.abort()
        await asyncio.sleep(0.2)
        after = await client.get(f"{chat.url}/turns/1/image")

    assert held <= 20_000_000
    assert (beyond.status_code, beyond.json()["code"]) == (503, "overloaded")
    assert len(after.content) > 6_000_000


async def _response_memory(client: httpx2.AsyncClient, at_least: int) -> float:
    """Wait until responses use more than `at_least` bytes of memory; return the number of bytes."""
    held = 0.0
    async with asyncio.timeout(10):
        while held <= at_least:
            await asyncio.sleep(0.05)
            metrics = (await client.get("/metrics")).text.splitlines()
            (line,) = [line for line in metrics if line.startswith('gemini_images_buffered_bytes{kind="responses"}')]
            held = float(line.split()[1])
    return held


async def test_clients_that_do_not_read_a_long_chat_use_little_memory(
    serve: Serve, gemini: Emulator, storage: Overrides
) -> None:
    """
    A chat of 6 MB is sent a few turns at a time. 20 clients use some MB of the memory for responses. When that memory
    is used up, further requests get a 503.
    """
    prompts = [f"{number} {chr(65 + number) * 190_000}" for number in range(32)]
    async with serve(**storage, max_buffered_bytes=24_000_000, queue_timeout_seconds=0.5) as client:
        chat = await begin(client)
        async with open_store(storage) as store:
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
        held = await _response_memory(client, 6_000_000)
        await asyncio.sleep(0.5)  # for clients that would use more memory than allowed
        held = await _response_memory(client, 6_000_000)
        beyond = await client.get(chat.url)
        for _, writer in readers:
            writer.transport.abort()
        await asyncio.sleep(0.2)
        after = await chat.read()

    assert held <= 12_000_000
    assert (beyond.status_code, beyond.json()["code"]) == (503, "overloaded")
    assert [turn["prompt"] for turn in found["turns"]] == prompts
    assert after == found
