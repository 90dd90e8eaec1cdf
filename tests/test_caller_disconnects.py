"""A caller who disconnects, reads slowly or sends slowly does not affect other callers."""

import asyncio
import base64
import json
import socket
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import httpx2
import pytest

from app.emulator import Emulator, Fault
from app.settings import Settings
from tests.conftest import Serve, metric, noise_jpeg, soon, under_our_own_server, wait_for_calls

ASK = {"prompt": "A lighthouse", "imageSize": "1K"}
SLOW_READERS = 'gemini_images_generations_total{model="gemini-3-pro-image",outcome="slow_reader"}'


@pytest.mark.parametrize("accept", ["application/json", pytest.param("text/event-stream", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("fault", "stage"),
    [(Fault(delay_seconds=20), "first_byte"), (Fault(stall_seconds=20), "transfer"),
     (Fault(status=503, headers={"Retry-After": "9"}), "retry")],
)  # fmt: skip
async def test_a_disconnect_releases_the_slot_the_connection_and_the_memory(
    serve: Serve, gemini: Emulator, accept: str, fault: Fault, stage: str
) -> None:
    """
    The disconnect is counted with the stage that the generation had reached.
    """
    gemini.faults.append(fault)
    async with serve() as client:
        asking = asyncio.create_task(client.post("/generate-image", json=ASK, headers={"Accept": accept}))
        await wait_for_calls(gemini)
        await asyncio.sleep(0.3)
        in_flight = await metric(client, "gemini_images_in_flight")
        asking.cancel()

        assert in_flight == 1
        assert await soon(client, "gemini_images_in_flight", 0)
        assert await soon(client, f'gemini_images_caller_disconnects_total{{stage="{stage}"}}', 1)
        assert await metric(client, 'gemini_images_buffered_bytes{kind="responses"}') == 0
    assert len(gemini.calls) == 1


async def test_a_request_whose_caller_disconnects_in_the_queue_is_never_sent_to_gemini(
    serve: Serve, gemini: Emulator
) -> None:
    gemini.hold()
    async with serve(max_in_flight=1) as client:
        first = asyncio.create_task(client.post("/generate-image", json=ASK))
        await wait_for_calls(gemini)
        second = asyncio.create_task(client.post("/generate-image", json=ASK))
        assert await soon(client, "gemini_images_queued", 1)
        second.cancel()
        assert await soon(client, "gemini_images_queued", 0)
        gemini.release()
        assert (await first).status_code == 200

    assert len(gemini.calls) == 1


def request(body: bytes) -> bytes:
    head = "POST /generate-image HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


@asynccontextmanager
async def connected(port: int, buffer_bytes: int) -> AsyncGenerator[socket.socket]:
    """Open a connection whose kernel buffers about `buffer_bytes` of a response."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        yield sock


@asynccontextmanager
async def asking_slowly(port: int, body: dict[str, str], buffer_bytes: int) -> AsyncGenerator[socket.socket]:
    """Send a request on such a connection."""
    async with connected(port, buffer_bytes) as sock:
        await asyncio.get_running_loop().sock_sendall(sock, request(json.dumps(body).encode()))
        yield sock


async def test_a_caller_who_reads_nothing_is_disconnected(settings: Settings, gemini: Emulator) -> None:
    """
    The connection is closed and the memory of the response is released.
    """
    large = base64.b64encode(noise_jpeg(1, 12_000_000)).decode()
    gemini.faults.append(Fault(image_base64=large))
    async with (
        under_our_own_server(settings, caller_idle_timeout_seconds=0.5) as port,
        asking_slowly(port, ASK, 4096) as sock,
    ):
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            assert await soon(client, SLOW_READERS, 1, seconds=10)
            held = await metric(client, 'gemini_images_buffered_bytes{kind="responses"}')
            abandoned = await metric(client, 'gemini_images_caller_disconnects_total{stage="response"}')
        with pytest.raises(ConnectionResetError):
            await _drained(sock)

    assert held == 0
    assert abandoned == 1


async def test_a_caller_who_reads_slowly_gets_the_complete_response(settings: Settings, gemini: Emulator) -> None:
    gemini.faults.append(Fault(image_base64=base64.b64encode(noise_jpeg(1, 6_000_000)).decode()))
    async with (
        under_our_own_server(settings, caller_idle_timeout_seconds=0.3) as port,
        asking_slowly(port, ASK | {"responseFormat": "b64"}, 65536) as sock,
    ):
        got = 0
        while got < 8_000_000:
            data = await asyncio.get_running_loop().sock_recv(sock, 100_000)
            assert data, f"cut after {got} bytes"
            got += len(data)
            await asyncio.sleep(0.02)


async def test_a_caller_must_also_read_the_last_bytes_of_a_response(settings: Settings, gemini: Emulator) -> None:
    """
    Bytes in the kernel's buffers are not read yet. A caller who leaves them there is disconnected.
    """
    gemini.faults.append(Fault(image_base64=base64.b64encode(noise_jpeg(1, 2_300_000)).decode()))
    async with (
        under_our_own_server(settings, caller_idle_timeout_seconds=0.4) as port,
        asking_slowly(port, ASK | {"responseFormat": "b64"}, 2048) as sock,
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        assert await soon(client, SLOW_READERS, 1, seconds=10)
        with pytest.raises(ConnectionResetError):
            await _drained(sock)


@pytest.mark.parametrize("pipelined", [True, pytest.param(False, marks=pytest.mark.slow)])
async def test_a_caller_who_sends_requests_and_reads_no_responses_is_disconnected(
    settings: Settings, *, pipelined: bool
) -> None:
    """
    A new request on the connection does not count as reading. A caller who reads slowly gets all responses.
    """
    paths = ["/docs", "/openapi.json", "/models", "/healthz", "/metrics", "/nowhere", "/chats", "/generate-image"]
    asks = [f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n".encode() for path in paths]
    asks.append(request(b"{}"))
    async with under_our_own_server(settings, caller_idle_timeout_seconds=1) as port:
        loop = asyncio.get_running_loop()

        async def keep_asking(ask: bytes) -> bool:
            """Return whether the connection is closed within 8 seconds."""
            async with connected(port, 2048) as sock:
                for _ in range(400):
                    try:
                        await loop.sock_sendall(sock, ask * 3 if pipelined else ask)
                    except ConnectionError:
                        return True
                    await asyncio.sleep(0.02)
            return False

        async def read_slowly() -> int:
            """Return how many responses arrive completely."""
            async with connected(port, 16384) as sock:
                for count in range(2):
                    await loop.sock_sendall(sock, asks[1])
                    got, length = b"", 1
                    while len(got.partition(b"\r\n\r\n")[2]) < length:
                        if not (data := await loop.sock_recv(sock, 4096)):
                            return count
                        got += data
                        length = int(got.lower().partition(b"content-length: ")[2].split()[0])
                        await asyncio.sleep(0.02)
            return 2

        gone, read = await asyncio.gather(asyncio.gather(*(keep_asking(ask) for ask in asks * 3)), read_slowly())

    assert gone == [True] * len(asks) * 3
    assert read == 2


async def test_a_second_request_on_the_connection_does_not_hide_a_disconnect(
    settings: Settings, gemini: Emulator
) -> None:
    gemini.hold()
    async with (
        under_our_own_server(settings) as port,
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request(json.dumps(ASK).encode()))
        await wait_for_calls(gemini)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.1)
        writer.close()

        assert await soon(client, "gemini_images_in_flight", 0)


async def _drained(sock: socket.socket) -> None:
    while await asyncio.get_running_loop().sock_recv(sock, 1 << 20):
        pass


async def test_a_stalled_upload_is_rejected(serve: Serve, gemini: Emulator) -> None:
    async with serve(caller_idle_timeout_seconds=0.3) as client:
        reader, writer = await asyncio.open_connection("127.0.0.1", client.base_url.port)
        writer.write(request(b'{"prompt": "x"}').replace(b"Content-Length: 15", b"Content-Length: 500000"))
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()

    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408")
    assert b"connection: close" in head.lower()
    assert json.loads(body)["code"] == "slow_upload"
    assert not gemini.calls


async def test_the_headers_of_a_request_are_limited_in_size_and_time(settings: Settings) -> None:
    async with under_our_own_server(settings, header_timeout_seconds=0.3, max_header_bytes=2048) as port:

        async def said(first: bytes) -> tuple[bytes, float]:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            began = time.perf_counter()
            writer.write(first)
            try:
                answer = await asyncio.wait_for(reader.read(), 5)
            except ConnectionResetError:
                answer = b""
            writer.close()
            return answer, time.perf_counter() - began

        silent = await said(b"")
        half = await said(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-")
        long = await said(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 3000 + b"\r\n\r\n")
        odd = await said(b"\x16\x03\x01\x02")

    assert (silent[0], half[0]) == (b"", b"")
    assert max(silent[1], half[1]) < 10 * 0.3
    assert long[0].startswith(b"HTTP/1.1 431")
    assert json.loads(long[0].partition(b"\r\n\r\n")[2])["code"] == "too_large"
    assert odd[0].startswith(b"HTTP/1.1 400")
    head, _, body = odd[0].partition(b"\r\n\r\n")
    problem = json.loads(body)
    assert problem["code"] == "invalid_http"
    assert {"type", "title", "status", "detail", "requestId", "error"} <= set(problem)
    assert f"X-Request-Id: {problem['requestId']}\r\n".encode() in head


async def test_the_number_of_connections_is_limited(settings: Settings) -> None:
    async with under_our_own_server(settings, max_connections=2) as port:
        kept = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        await asyncio.sleep(0.05)

        async def said(path: str) -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            answer = await asyncio.wait_for(reader.read(), 5)
            writer.close()
            return answer

        models, health = await said("/models"), await said("/healthz")
        for _, one in kept:
            one.close()

    assert models.startswith(b"HTTP/1.1 503")
    assert b"Retry-After" in models
    assert health.startswith(b"HTTP/1.1 200"), "a full service is still alive"
