"""Lost and changed data is reported, and is never sent as if it were complete."""

import base64
import hashlib
from pathlib import Path

import httpx2
import pytest
from obstore.store import from_url

from app.emulator import Emulator, Fault
from tests.conftest import Serve, image_of, noise_jpeg
from tests.storages import Overrides
from tests.stored_chats import execute, storage_problem
from tests.test_chats import begin, contents, images_in


async def test_a_chat_continues_without_a_lost_image(serve: Serve, gemini: Emulator, tmp_path: Path) -> None:
    """
    A missing blob is reported as damage, not as an unavailable store. The next turn uses the images that are left.
    """
    async with serve(data_dir=tmp_path) as client:
        chat = await begin(client)
        first = image_of(await chat.say("A cat"))
        second = image_of(await chat.say("Blue, please"))
        name = hashlib.sha256(second).hexdigest()
        (tmp_path / "blobs" / name[:2] / name).unlink()
        response = await client.get(f"{chat.url}/turns/2/image")
        third = await chat.say("Larger")
        fourth = await chat.say("Larger still")

    assert storage_problem(response, tmp_path) == (500, "storage_damaged", "blobs")
    warning, missing = third.json()["warnings"]
    assert missing.startswith("1 of them were not sent")
    assert warning.endswith("were sent as references, because content of the chat is missing from the storage.")
    assert [images_in(content) for content in contents(gemini, 2)] == [[first]]
    assert fourth.json()["warnings"] == []


async def flip_a_bit(storage: Overrides, content: bytes, index: int) -> None:
    """Change one bit of a stored blob, without the service."""
    damaged = bytearray(content)
    damaged[index] ^= 1
    name = hashlib.sha256(content).hexdigest()
    if "blob_url" in storage:
        store = from_url(storage["blob_url"], client_options={"allow_http": True})
        await store.put_async(f"{name[:2]}/{name}", bytes(damaged))
    else:
        path = Path(storage["data_dir"]) / "blobs" / name[:2] / name
        assert path.read_bytes() == content
        path.write_bytes(damaged)


@pytest.mark.parametrize("index", [0, -1])
async def test_a_small_blob_that_was_changed_is_never_sent(
    serve: Serve, gemini: Emulator, storage: Overrides, index: int
) -> None:
    """
    Neither the caller nor Gemini gets the image, and the chat continues without it.
    """
    async with serve(**storage) as client:
        chat = await begin(client)
        first = image_of(await chat.say("A cat"))
        second = image_of(await chat.say("Blue, please"))
        await flip_a_bit(storage, second, index)
        response = await client.get(f"{chat.url}/turns/2/image")
        third = await chat.say("Larger")

    assert storage_problem(response) == (500, "storage_damaged", "blobs")
    warning, missing = third.json()["warnings"]
    assert missing.startswith("1 of them were not sent")
    assert warning.endswith("were sent as references, because content of the chat is missing from the storage.")
    assert [images_in(content) for content in contents(gemini)] == [[first]]
    assert len(gemini.calls) == 3


@pytest.mark.parametrize("index", [100_000, 5_000_000])
async def test_a_large_blob_that_was_changed_is_never_sent_completely(
    serve: Serve, gemini: Emulator, storage: Overrides, index: int
) -> None:
    """
    The damage is found while the blob is being sent. The response and the request to Gemini end too early.
    """
    gemini.faults.append(Fault(times=2, image_base64=base64.b64encode(noise_jpeg(1, 6_000_000)).decode()))
    async with serve(**storage) as client:
        chat = await begin(client)
        image = image_of(await chat.say("A cat"))
        await flip_a_bit(storage, image, index)
        async with client.stream("GET", f"{chat.url}/turns/1/image") as response:
            with pytest.raises(httpx2.RemoteProtocolError):
                await response.aread()
        part = await client.get(f"{chat.url}/turns/1/image", headers={"Range": "bytes=10-19"})
        turn = await chat.say("Larger")
        again = await begin(client, prompt="A cat")  # the emulator sends the same image again
        healed = (await client.get(f"{chat.url}/turns/1/image")).content

    assert response.headers["content-length"] == str(len(image))
    assert part.content == image[10:20]
    assert storage_problem(turn) == (500, "storage_damaged", "blobs")
    assert again.url
    assert healed == image
    assert len(gemini.calls) == 2


async def test_a_chat_with_no_image_left_fails_before_gemini_is_called(
    serve: Serve, gemini: Emulator, tmp_path: Path
) -> None:
    async with serve(data_dir=tmp_path) as client:
        chat = await begin(client, prompt="A cat")
        for path in (tmp_path / "blobs").glob("*/*"):
            path.unlink()
        response = await chat.say("Blue, please")

    assert storage_problem(response, tmp_path) == (500, "storage_damaged", "blobs")
    assert len(gemini.calls) == 1


async def test_a_damaged_database_is_reported_as_damaged(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "chats.db").write_bytes(b"This is not a database. " * 1000)
    async with serve(data_dir=tmp_path) as client:
        response = await client.post("/chats", json={})

    assert storage_problem(response, tmp_path) == (500, "storage_damaged", "database")


async def test_a_damaged_document_is_reported_as_damaged(serve: Serve, gemini: Emulator, storage: Overrides) -> None:
    async with serve(**storage) as client:
        chat = await begin(client, prompt="A cat")
        await execute(storage, "UPDATE turns SET document = '{}'")
        response = await client.get(chat.url)

    assert storage_problem(response) == (500, "storage_damaged", "database")


async def test_images_are_sent_as_references_when_a_signature_is_lost(
    serve: Serve, gemini: Emulator, tmp_path: Path
) -> None:
    async with serve(data_dir=tmp_path) as client:
        chat = await begin(client)
        first = image_of(await chat.say("A cat"))
        for path in (tmp_path / "blobs").glob("*/*"):
            if path.stat().st_size == 256:
                path.write_bytes(path.read_bytes()[:-1])
        second = await chat.say("Blue, please")

    assert "missing from the storage" in second.json()["warnings"][0]
    assert [images_in(content) for content in contents(gemini)] == [[first]]
