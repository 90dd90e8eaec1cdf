"""Metrics count each generation by its outcome, requests that failed before a generation as rejections, and nothing
else."""

import asyncio
import base64
import json
import re
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.emulator import Emulator, Fault, served
from app.main import create_app
from app.settings import Settings
from tests.conftest import Serve, image_file, noise_jpeg, soon, under_our_own_server, wait_for_calls
from tests.test_logs import broken

PRO = "gemini-3-pro-image"
ASK = {"prompt": "A lighthouse", "imageSize": "1K"}
UPLOAD: dict[str, Any] = {"data": ASK, "files": {"images": ("a.png", image_file(), "image/png")}}
UNREACHABLE_DATABASE = "postgresql://user@127.0.0.1:1/database"
SOME_CHAT = "/chats/chat_" + "0" * 32
ACCEPT = {"JSON": "application/json", "bytes": "image/*", "events": "text/event-stream"}

Counts = dict[str, float]

_COUNTER = re.compile(
    r"gemini_images_(generations|rejections|upstream_attempts|caller_disconnects)_total\{(.*)\} (\S+)"
)


async def counters(client: httpx2.AsyncClient) -> Counts:
    """Return the counters by name and labels, such as `generations gemini-3-pro-image ok`."""
    found = _COUNTER.findall((await client.get("/metrics")).text)
    return {" ".join([name, *re.findall('"([^"]*)"', labels)]): float(value) for name, labels, value in found}


class Increases:
    """How much each counter has increased since the block began."""

    def __init__(self, client: httpx2.AsyncClient) -> None:
        self._client = client
        self._before: Counts = {}

    async def __aenter__(self) -> "Increases":
        self._before = await counters(self._client)
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def now(self) -> Counts:
        now = await counters(self._client)
        return {
            name: value - self._before.get(name, 0) for name, value in now.items() if value != self._before.get(name)
        }

    async def become(self, expected: Counts) -> bool:
        """Wait up to 5 s for the expected increases, then check that they stay for 50 ms."""
        for _ in range(250):
            if await self.now() == expected:
                break
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.05)
        assert await self.now() == expected
        return True


def generation(outcome: str, *, model: str = PRO, attempts: int = 1, disconnected_in: str | None = None) -> Counts:
    """Return the counts of one generation."""
    return {
        f"generations {model} {outcome}": 1,
        **({f"upstream_attempts {PRO}": attempts} if attempts else {}),
        **({f"caller_disconnects {disconnected_in}": 1} if disconnected_in else {}),
    }


def rejection(code: str) -> Counts:
    """Return the counts of one request that failed before its generation began."""
    return {f"rejections {code}": 1}


GENERATION = ("POST", "/generate-image", {"json": ASK})
FORM = ("POST", "/generate-image/with-references", UPLOAD)
SEARCH = ("POST", "/generate-image/with-search", {"json": ASK})
FIRST_TURN = ("POST", "/chats", {"json": ASK})
TURN = ("POST", f"{SOME_CHAT}/turns", {"json": ASK})
TURN_AS_FORM = ("POST", f"{SOME_CHAT}/turns", UPLOAD)
IMAGES = [GENERATION, FORM, SEARCH]

Request = tuple[str, str, dict[str, Any]]


async def send(client: httpx2.AsyncClient, request: Request, **headers: str) -> httpx2.Response:
    method, path, options = request
    return await client.request(method, path, **options, headers=headers)


# Generations.


@pytest.mark.parametrize("kind", ACCEPT)
@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault(), generation("ok")),
        (Fault(finish_reason="IMAGE_SAFETY"), generation("content_blocked")),
        (Fault(shape="text_only"), generation("no_image")),
        (Fault(status=400), generation("invalid_request")),
        (Fault(status=503, times=1), generation("ok", attempts=2)),
        (Fault(status=503, times=9), generation("upstream_busy", attempts=3)),
        (Fault(body="<html>", times=9), generation("upstream_invalid_response")),
    ],
    ids=["ok", "blocked", "no image", "invalid", "second attempt", "busy", "malformed"],
)
async def test_a_generation_is_counted_once_by_its_outcome(
    client: httpx2.AsyncClient, gemini: Emulator, kind: str, fault: Fault, expected: Counts
) -> None:
    async with Increases(client) as increases:
        gemini.faults.append(fault)
        await send(client, GENERATION, Accept=ACCEPT[kind])

        assert await increases.become(expected)


@pytest.mark.parametrize("kind", ACCEPT)
async def test_a_bug_is_counted_as_internal(settings: Settings, kind: str) -> None:
    async with broken(settings) as client, Increases(client) as increases:
        await send(client, GENERATION, Accept=ACCEPT[kind])

        assert await increases.become(generation("internal"))


# Requests that are not counted, and rejections.


@pytest.mark.parametrize(
    "request_",
    [
        ("GET", "/healthz", {}),
        ("GET", "/readyz", {}),
        ("GET", "/models", {}),
        ("GET", "/chats", {}),
        ("GET", SOME_CHAT, {}),
        ("DELETE", SOME_CHAT, {}),
        ("GET", "/unknown", {}),
        ("GET", "/generate-image", {}),
        ("POST", "/generate-image", {"json": {}}),
        ("POST", "/generate-image", {"json": ASK | {"aspectRatio": "8:1"}}),
        ("POST", "/generate-image", {"content": b"{", "headers": {"Content-Type": "application/json"}}),
        ("POST", "/generate-image", {"content": b"x"}),
        ("POST", "/generate-image/with-references", {"data": ASK, "files": {"images": ("a", b"no image")}}),
        TURN,
        ("POST", f"{SOME_CHAT}/fork", {}),
        ("POST", "/generate-image", {"json": ASK, "headers": {"Origin": "https://evil.example"}}),
        ("POST", "/generate-image", {"json": ASK, "headers": {"Host": "evil.example"}}),
        ("POST", "/generate-image", {"json": ASK, "headers": {"Accept": "image/gif"}}),
    ],
    ids=str,
)
async def test_errors_of_the_caller_and_other_routes_are_not_counted(
    client: httpx2.AsyncClient, request_: Request
) -> None:
    async with Increases(client) as increases:
        method, path, options = request_
        response = await client.request(method, path, **options)

        assert response.status_code < 500
        assert await increases.become({})


async def test_a_request_without_a_key_is_not_counted(serve: Serve) -> None:
    async with serve(service_api_keys="web:secret", metrics_access="open") as client, Increases(client) as increases:
        statuses = {(await send(client, request)).status_code for request in (*IMAGES, FIRST_TURN, TURN)}

        assert statuses == {401}
        assert await increases.become({})


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (("GET", "/chats", {}), {}),
        (("GET", SOME_CHAT, {}), {}),
        (("DELETE", SOME_CHAT, {}), {}),
        (("GET", f"{SOME_CHAT}/turns/1/image", {}), {}),
        (("POST", f"{SOME_CHAT}/fork", {}), {}),
        (("POST", "/chats", {"json": {}}), {}),
        (FIRST_TURN, rejection("storage_unavailable")),
        (TURN, rejection("storage_unavailable")),
        (TURN_AS_FORM, rejection("storage_unavailable")),
        (GENERATION, generation("ok")),
    ],
    ids=["list", "read", "delete", "image", "fork", "begin", "first turn", "turn", "turn as a form", "without storage"],
)
async def test_a_storage_failure_is_a_rejection_if_an_image_was_requested(
    serve: Serve, gemini: Emulator, tmp_path: Path, request_: Request, expected: Counts
) -> None:
    async with serve(database_url=UNREACHABLE_DATABASE, data_dir=tmp_path) as client, Increases(client) as increases:
        response = await send(client, request_)

        assert response.status_code == (200 if request_ is GENERATION else 503)
        assert await increases.become(expected)


@asynccontextmanager
async def stopping_service(settings: Settings) -> AsyncGenerator[httpx2.AsyncClient]:
    """Run a service that has received SIGTERM and is draining."""
    app = create_app(settings)
    async with served(app) as url, httpx2.AsyncClient(base_url=url, trust_env=False) as client:
        app.state.admission.stopping = app.state.admission.draining = True
        yield client


async def test_a_draining_service_counts_only_the_generations_that_it_rejects(
    settings: Settings, gemini: Emulator
) -> None:
    """
    Probes of `/readyz` continue while the service drains.
    """
    async with stopping_service(settings) as client, Increases(client) as increases:
        probes = [(await client.get("/readyz")).status_code for _ in range(5)]
        chats = [(await client.get("/chats")).status_code, (await client.post("/chats", json={})).status_code]

        assert (probes, chats) == ([503] * 5, [200, 503])
        assert await increases.become({})
        assert {(await send(client, request)).status_code for request in IMAGES} == {503}
        assert await increases.become({"rejections overloaded": 3})


async def test_a_full_queue_is_a_rejection_and_a_queue_timeout_is_a_generation(serve: Serve, gemini: Emulator) -> None:
    """
    A request that is refused at once has no generation. A request that waited in the queue has one.
    """
    gemini.hold()
    async with (
        serve(max_in_flight=1, max_queued=1, queue_timeout_seconds=1) as client,
        Increases(client) as increases,
        asyncio.TaskGroup() as tasks,
    ):
        drawing = tasks.create_task(send(client, GENERATION))
        await wait_for_calls(gemini)
        waiting = tasks.create_task(send(client, GENERATION))
        assert await soon(client, "gemini_images_queued", 1)
        at_once = [await send(client, GENERATION), await client.post("/chats", json={})]
        await client.get("/models")
        waited = await waiting

        assert [one.status_code for one in (*at_once, waited)] == [503, 503, 503]
        assert await increases.become({**rejection("overloaded"), f"generations {PRO} overloaded": 1})
        gemini.release()
        assert (await drawing).status_code == 200


# Callers who disconnect, and callers who do not read.


def head(path: str, accept: str, length: int, type_: str = "application/json") -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\nContent-Type: {type_}\r\n"
        f"Content-Length: {length}\r\n\r\n"
    ).encode()


@asynccontextmanager
async def raw_request(client: httpx2.AsyncClient, request: bytes) -> AsyncGenerator[socket.socket]:
    """Send `request` with small socket buffers and read nothing; disconnect after the block."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, (client.base_url.host, client.base_url.port or 0))
        await loop.sock_sendall(sock, request)
        yield sock


@pytest.mark.parametrize("kind", ACCEPT)
@pytest.mark.parametrize(
    ("fault", "stage"),
    [
        (Fault(delay_seconds=20), "first_byte"),
        # With an image of its own, the emulator need not draw one, which can take longer than the test waits.
        (Fault(stall_seconds=20, image_base64=base64.b64encode(image_file()).decode()), "transfer"),
    ],
)
async def test_a_disconnect_is_counted_with_the_stage(
    client: httpx2.AsyncClient, gemini: Emulator, kind: str, fault: Fault, stage: str
) -> None:
    gemini.faults.append(fault)
    body = json.dumps(ASK).encode()
    async with Increases(client) as increases:
        async with raw_request(client, head("/generate-image", ACCEPT[kind], len(body)) + body):
            await wait_for_calls(gemini)
            await asyncio.sleep(0.2)

        assert await increases.become(generation("caller_left", disconnected_in=stage))


async def test_a_disconnect_in_the_queue_counts_no_call(serve: Serve, gemini: Emulator) -> None:
    gemini.hold()
    body = json.dumps(ASK).encode()
    async with serve(max_in_flight=1) as client, asyncio.TaskGroup() as tasks, Increases(client) as increases:
        tasks.create_task(send(client, GENERATION))
        await wait_for_calls(gemini)
        async with raw_request(client, head("/generate-image", ACCEPT["events"], len(body)) + body):
            assert await soon(client, "gemini_images_queued", 1, seconds=10)

        assert await increases.become(generation("caller_left", attempts=0, disconnected_in="queue"))
        gemini.release()


@pytest.mark.parametrize("type_", ["application/json", "multipart/form-data; boundary=x"])
async def test_a_disconnect_during_the_upload_is_not_counted(client: httpx2.AsyncClient, type_: str) -> None:
    path = "/generate-image" if "json" in type_ else "/generate-image/with-references"
    async with Increases(client) as increases:
        async with raw_request(client, head(path, "*/*", 100_000, type_) + b'{"prompt": "'):
            await asyncio.sleep(0.2)

        assert await increases.become({})


@asynccontextmanager
async def service_with_read_timeout(settings: Settings) -> AsyncGenerator[httpx2.AsyncClient]:
    """Run the service on its own server, which disconnects callers who do not read for 0.5 s."""
    async with (
        under_our_own_server(settings, caller_idle_timeout_seconds=0.5) as port,
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client,
    ):
        yield client


def parts(*images: bytes) -> str:
    encoded = [{"inlineData": {"mimeType": "image/jpeg", "data": base64.b64encode(image).decode()}} for image in images]
    chunks = [{"candidates": [{"content": {"role": "model", "parts": [part]}, "index": 0}]} for part in encoded]
    return "".join(f"data: {json.dumps(chunk)}\r\n\r\n" for chunk in chunks)


@pytest.mark.parametrize(
    "kind", ["JSON", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("bytes", "events"))]
)
async def test_a_caller_who_does_not_read_the_image_is_counted_as_slow_reader(
    settings: Settings, gemini: Emulator, kind: str
) -> None:
    gemini.faults.append(Fault(image_base64=base64.b64encode(noise_jpeg(1, 12_000_000)).decode()))
    body = json.dumps(ASK).encode()
    sent = head("/generate-image", ACCEPT[kind], len(body)) + body
    async with service_with_read_timeout(settings) as client, Increases(client) as increases, raw_request(client, sent):
        assert await increases.become(generation("slow_reader", disconnected_in="response"))


async def test_a_caller_who_does_not_read_the_drafts_is_counted_as_slow_reader(
    settings: Settings, gemini: Emulator
) -> None:
    """
    The generation is then cancelled. The cancellation is not counted as a second failure.
    """
    stream = {"Content-Type": "text/event-stream"}
    drafts = parts(*(noise_jpeg(seed, 6_000_000) for seed in range(6)))
    gemini.faults.append(Fault(body=drafts, headers=stream, chunk_bytes=1, stall_seconds=20))
    body = json.dumps(ASK | {"includeDrafts": True}).encode()
    sent = head("/generate-image", ACCEPT["events"], len(body)) + body
    async with service_with_read_timeout(settings) as client, Increases(client) as increases, raw_request(client, sent):
        assert await increases.become(generation("slow_reader", disconnected_in="transfer"))


@pytest.mark.parametrize("kind", ACCEPT)
async def test_a_turn_whose_caller_disconnected_is_counted_once(
    serve: Serve, gemini: Emulator, tmp_path: Path, kind: str
) -> None:
    """
    The turn is finished and stored. Both the call to Gemini and the disconnect are counted.
    """
    gemini.faults.append(Fault(delay_seconds=0.5))
    body = json.dumps(ASK).encode()
    async with serve(data_dir=tmp_path) as client, Increases(client) as increases:
        url = (await client.post("/chats", json={})).json()["url"]
        async with raw_request(client, head(f"{url}/turns", ACCEPT[kind], len(body)) + body):
            await wait_for_calls(gemini)

        assert await increases.become(generation("caller_left", disconnected_in="first_byte"))
        assert (await client.get(url)).json()["turns"][0]["state"] == "succeeded"
