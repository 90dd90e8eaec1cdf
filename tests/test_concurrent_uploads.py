"""Concurrent uploads: memory is reserved as bytes arrive, and is shared fairly between callers."""

import asyncio
import base64
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest

from app.emulator import Emulator, Fault
from tests.conftest import Serve, image_file, noise_jpeg

KB = 1000
LIMITS = {"max_buffered_bytes": 4000 * KB, "service_api_keys": "a:key-a,b:key-b,c:key-c,d:key-d,e:key-e,f:key-f"}
"""Half of the memory is for uploads."""

PART = b'--x\r\nContent-Disposition: form-data; name="images"; filename="a.jpg"\r\n\r\n'


@pytest.fixture(autouse=True)
def _small_images(gemini: Emulator) -> None:
    gemini.faults.append(Fault(times=1000, image_base64=base64.b64encode(image_file("JPEG")).decode()))


async def upload(client: httpx2.AsyncClient, key: str, size: int) -> httpx2.Response:
    return await client.post(
        "/generate-image/with-references",
        data={"prompt": "x"},
        files=[("images", ("a.jpg", noise_jpeg(1, size)))],
        headers={"X-API-Key": f"key-{key}"},
    )


async def inline(client: httpx2.AsyncClient, key: str, size: int) -> httpx2.Response:
    images = [{"data": base64.b64encode(noise_jpeg(1, size * 3 // 4)).decode()}]
    body = {"prompt": "x", "referenceImages": images}
    return await client.post("/generate-image", json=body, headers={"X-API-Key": f"key-{key}"})


@asynccontextmanager
async def dripping(
    client: httpx2.AsyncClient, key: str, *, announced: bool, sent: int, count: int = 4
) -> AsyncGenerator[list[asyncio.Task[bytes]]]:
    """Start uploads that send `sent` bytes at once and then 4 bytes each 0.1 s. Yield the tasks that return their
    responses.
    """
    head = (
        f"POST /generate-image/with-references HTTP/1.1\r\nHost: {client.base_url.netloc.decode()}\r\n"
        f"X-API-Key: key-{key}\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        + (f"Content-Length: {1990 * KB}\r\n\r\n" if announced else "Transfer-Encoding: chunked\r\n\r\n")
    ).encode()

    def piece(data: bytes) -> bytes:
        return data if announced else b"%x\r\n%b\r\n" % (len(data), data)

    async def one() -> bytes:
        reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
        writer.write(head + piece(PART + bytes(sent)))
        await writer.drain()
        answer = asyncio.ensure_future(reader.read(4096))
        try:
            while not (await asyncio.wait([answer], timeout=0.1))[0]:
                writer.write(piece(b"1234"))
            return answer.result()
        finally:
            answer.cancel()
            writer.close()

    asking = [asyncio.create_task(one()) for _ in range(count)]
    await asyncio.sleep(0.3)
    try:
        yield asking
    finally:
        for task in asking:
            task.cancel()
        await asyncio.wait(asking)


async def held(client: httpx2.AsyncClient) -> float:
    metrics = (await client.get("/metrics", headers={"X-API-Key": "key-a"})).text
    (line,) = [line for line in metrics.splitlines() if line.startswith('gemini_images_buffered_bytes{kind="uploads"}')]
    return float(line.split()[-1])


async def all_let_go(client: httpx2.AsyncClient) -> None:
    """Wait until the memory of all uploads is released."""
    async with asyncio.timeout(5):
        while await held(client):  # noqa: ASYNC110 - a metric has no other way to tell
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.parametrize("way", [upload, inline])
async def test_a_content_length_without_data_does_not_block_other_uploads(
    serve: Serve, announced: bool, way: Any
) -> None:
    async with serve(**LIMITS) as client, dripping(client, "a", announced=announced, sent=0):
        other, same = await way(client, "b", 1900 * KB), await way(client, "a", 1900 * KB)

    assert (other.status_code, same.status_code) == (200, 200), other.text


@pytest.mark.parametrize("way", [upload, inline])
async def test_stalled_uploads_are_rejected_in_favour_of_other_callers(serve: Serve, way: Any) -> None:
    """
    The stalled uploads use all memory for uploads. Only as many are rejected as the other callers need.
    """
    async with serve(**LIMITS) as client, dripping(client, "a", announced=True, sent=450 * KB) as stalled:
        async with asyncio.timeout(10):
            while (full := await held(client)) <= 1700 * KB:  # noqa: ASYNC110 - nor has this one
                await asyncio.sleep(0.02)
        small, large = await way(client, "b", 400 * KB), await way(client, "c", 800 * KB)
        refused = [one.result() for one in stalled if one.done()]
        left = len(stalled) - len(refused)

    assert full <= 2100 * KB
    assert (small.status_code, large.status_code) == (200, 200), small.text + large.text
    assert refused
    assert left
    for answer in refused:
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 10" in answer.lower()
        assert b'"overloaded"' in answer


async def test_a_caller_cannot_displace_uploads_beyond_an_equal_share(serve: Serve) -> None:
    """
    A caller's uploads are rejected until both callers hold the same. An upload never displaces one of the same caller.
    """
    async with serve(**LIMITS) as client, dripping(client, "a", announced=False, sent=950 * KB, count=2) as stalled:
        own = await upload(client, "a", 500 * KB)
        before = [one for one in stalled if one.done()]
        other = await upload(client, "b", 1900 * KB)
        left = [one for one in stalled if not one.done()]

    assert (own.status_code, own.json()["code"]) == (503, "overloaded")
    assert not before
    assert (other.status_code, other.json()["code"]) == (503, "overloaded")
    assert len(left) == 1


async def test_a_single_caller_may_use_all_memory_for_uploads(serve: Serve) -> None:
    async with serve(**LIMITS) as client:
        assert (await upload(client, "a", 1990 * KB)).status_code == 200
        assert (await inline(client, "a", 1990 * KB)).status_code == 200
        await all_let_go(client)


async def test_many_large_uploads_succeed_or_are_rejected_with_503(serve: Serve, gemini: Emulator) -> None:
    """
    They need three times the available memory. Afterwards all memory is released.
    """
    gemini.faults.clear()
    gemini.faults.append(
        Fault(times=1000, delay_seconds=0.2, image_base64=base64.b64encode(image_file("JPEG")).decode())
    )
    async with serve(**LIMITS) as client:
        answers = await asyncio.gather(
            *(way(client, key, 500 * KB) for key in "abcdef" for way in (upload, inline)), return_exceptions=True
        )
        await all_let_go(client)
        again = await upload(client, "a", 1900 * KB)

    # A client that is still sending when it is rejected may not receive the response.
    statuses = Counter(one.status_code for one in answers if isinstance(one, httpx2.Response))
    assert set(statuses) <= {200, 503}
    assert statuses[200] >= 2
    assert again.status_code == 200
