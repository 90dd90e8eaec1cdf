"""What is counted: a generation as what came of it, what failed before it was one as `none`, and nothing else."""

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
from tests.conftest import Serve, called, noise, picture, under_our_own_server
from tests.test_logs import broken

PRO = "gemini-3-pro-image"
ASK = {"prompt": "A lighthouse", "imageSize": "1K"}
UPLOAD: dict[str, Any] = {"data": ASK, "files": {"images": ("a.png", picture(), "image/png")}}
NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"
SOME_CHAT = "/chats/chat_" + "0" * 32
ACCEPT = {"JSON": "application/json", "bytes": "image/*", "events": "text/event-stream"}

Changed = dict[str, float]

_COUNTED = re.compile(r"gemini_images_(generations|upstream_attempts|abandoned)_total\{(.*)\} (\S+)")


async def counts(client: httpx2.AsyncClient) -> Changed:
    """The counters of what callers ask for, by name and labels: `generations gemini-3-pro-image ok`."""
    found = _COUNTED.findall((await client.get("/metrics")).text)
    return {" ".join([name, *re.findall('"([^"]*)"', labels)]): float(value) for name, labels, value in found}


class Changes:
    """What has been counted since the block began."""

    def __init__(self, client: httpx2.AsyncClient) -> None:
        self._client = client
        self._before: Changed = {}

    async def __aenter__(self) -> "Changes":
        self._before = await counts(self._client)
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def now(self) -> Changed:
        now = await counts(self._client)
        return {
            name: value - self._before.get(name, 0) for name, value in now.items() if value != self._before.get(name)
        }

    async def come_to(self, expected: Changed) -> bool:
        """Whether they do, and stay so for a moment."""
        for _ in range(250):
            if await self.now() == expected:
                break
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.05)
        assert await self.now() == expected
        return True


def one(outcome: str, *, model: str = PRO, attempts: int = 1, left_in: str | None = None) -> Changed:
    """A generation."""
    return {
        f"generations {model} {outcome}": 1,
        **({f"upstream_attempts {PRO}": attempts} if attempts else {}),
        **({f"abandoned {left_in}": 1} if left_in else {}),
    }


def refused(outcome: str) -> Changed:
    """A request for one that came to nothing before."""
    return one(outcome, model="none", attempts=0)


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


# Generations, by what comes of them.


@pytest.mark.parametrize("kind", ACCEPT)
@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault(), one("ok")),
        (Fault(finish_reason="IMAGE_SAFETY"), one("content_blocked")),
        (Fault(shape="text_only"), one("no_image")),
        (Fault(status=400), one("invalid_request")),
        (Fault(status=503, times=1), one("ok", attempts=2)),
        (Fault(status=503, times=9), one("upstream_busy", attempts=3)),
        (Fault(body="<html>", times=9), one("upstream_invalid_response")),
    ],
    ids=["ok", "blocked", "no image", "invalid", "second attempt", "busy", "rubbish"],
)
async def test_a_generation_is_counted_once_as_what_came_of_it(
    client: httpx2.AsyncClient, gemini: Emulator, kind: str, fault: Fault, expected: Changed
) -> None:
    async with Changes(client) as changes:
        gemini.faults.append(fault)
        await send(client, GENERATION, Accept=ACCEPT[kind])

        assert await changes.come_to(expected)


@pytest.mark.parametrize("kind", ACCEPT)
async def test_a_bug_is_counted_as_ours(settings: Settings, kind: str) -> None:
    async with broken(settings) as client, Changes(client) as changes:
        await send(client, GENERATION, Accept=ACCEPT[kind])

        assert await changes.come_to(one("internal"))


# What is no generation.


@pytest.mark.parametrize(
    "request_",
    [
        ("GET", "/healthz", {}),
        ("GET", "/readyz", {}),
        ("GET", "/models", {}),
        ("GET", "/chats", {}),
        ("GET", SOME_CHAT, {}),
        ("DELETE", SOME_CHAT, {}),
        ("GET", "/nowhere", {}),
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
async def test_what_a_caller_can_change_is_not_counted(client: httpx2.AsyncClient, request_: Request) -> None:
    async with Changes(client) as changes:
        method, path, options = request_
        response = await client.request(method, path, **options)

        assert response.status_code < 500
        assert await changes.come_to({})


async def test_who_has_no_key_is_not_counted(serve: Serve) -> None:
    async with serve(service_api_keys="web:secret", metrics_access="open") as client, Changes(client) as changes:
        statuses = {(await send(client, request)).status_code for request in (*IMAGES, FIRST_TURN, TURN)}

        assert statuses == {401}
        assert await changes.come_to({})


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (("GET", "/chats", {}), {}),
        (("GET", SOME_CHAT, {}), {}),
        (("DELETE", SOME_CHAT, {}), {}),
        (("GET", f"{SOME_CHAT}/turns/1/image", {}), {}),
        (("POST", f"{SOME_CHAT}/fork", {}), {}),
        (("POST", "/chats", {"json": {}}), {}),
        (FIRST_TURN, refused("storage_unavailable")),
        (TURN, refused("storage_unavailable")),
        (TURN_AS_FORM, refused("storage_unavailable")),
        (GENERATION, one("ok")),
    ],
    ids=["list", "read", "delete", "image", "fork", "begin", "first turn", "turn", "turn as a form", "without storage"],
)
async def test_a_storage_that_fails_is_counted_where_an_image_was_asked_for(
    serve: Serve, gemini: Emulator, tmp_path: Path, request_: Request, expected: Changed
) -> None:
    async with serve(database_url=NOWHERE, data_dir=tmp_path) as client, Changes(client) as changes:
        response = await send(client, request_)

        assert response.status_code == (200 if request_ is GENERATION else 503)
        assert await changes.come_to(expected)


@asynccontextmanager
async def stopping(settings: Settings) -> AsyncGenerator[httpx2.AsyncClient]:
    """A service that has been told to stop, in the time that is left to it."""
    app = create_app(settings)
    async with served(app) as url, httpx2.AsyncClient(base_url=url, trust_env=False) as client:
        app.state.admission.stopping = app.state.admission.draining = True
        yield client


async def test_a_deploy_costs_nothing_but_the_images_that_it_refuses(settings: Settings, gemini: Emulator) -> None:
    """
    `/readyz` is asked every few seconds while the service drains.
    """
    async with stopping(settings) as client, Changes(client) as changes:
        probes = [(await client.get("/readyz")).status_code for _ in range(5)]
        chats = [(await client.get("/chats")).status_code, (await client.post("/chats", json={})).status_code]

        assert (probes, chats) == ([503] * 5, [200, 503])
        assert await changes.come_to({})
        assert {(await send(client, request)).status_code for request in IMAGES} == {503}
        assert await changes.come_to({"generations none overloaded": 3})


async def test_a_queue_that_refuses_is_counted_where_an_image_was_asked_for(serve: Serve, gemini: Emulator) -> None:
    """
    As `none` if it refuses at once, as the model's if the request has waited for its turn.
    """
    gemini.faults.append(Fault(delay_seconds=2))
    async with (
        serve(max_in_flight=1, max_queued=1, queue_timeout_seconds=0.3) as client,
        Changes(client) as changes,
        asyncio.TaskGroup() as tasks,
    ):
        drawing = tasks.create_task(send(client, GENERATION))
        await called(gemini)
        waiting = tasks.create_task(send(client, GENERATION))
        await asyncio.sleep(0.1)
        at_once = [await send(client, GENERATION), await client.post("/chats", json={})]
        await client.get("/models")
        waited = await waiting

        assert [one.status_code for one in (*at_once, waited)] == [503, 503, 503]
        assert await changes.come_to({**refused("overloaded"), f"generations {PRO} overloaded": 1})
        assert (await drawing).status_code == 200


# Callers who leave, and who do not read.


def head(path: str, accept: str, length: int, type_: str = "application/json") -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\nContent-Type: {type_}\r\n"
        f"Content-Length: {length}\r\n\r\n"
    ).encode()


@asynccontextmanager
async def asking(client: httpx2.AsyncClient, request: bytes) -> AsyncGenerator[socket.socket]:
    """A caller with small buffers who has sent `request` and reads nothing; leaves after the block."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, (client.base_url.host, client.base_url.port or 0))
        await loop.sock_sendall(sock, request)
        yield sock


@pytest.mark.parametrize("kind", ACCEPT)
@pytest.mark.parametrize(
    ("fault", "stage"), [(Fault(delay_seconds=20), "first_byte"), (Fault(stall_seconds=20), "transfer")]
)
async def test_a_caller_who_leaves_is_counted_with_the_stage(
    client: httpx2.AsyncClient, gemini: Emulator, kind: str, fault: Fault, stage: str
) -> None:
    gemini.faults.append(fault)
    body = json.dumps(ASK).encode()
    async with Changes(client) as changes:
        async with asking(client, head("/generate-image", ACCEPT[kind], len(body)) + body):
            await called(gemini)
            await asyncio.sleep(0.2)

        assert await changes.come_to(one("caller_left", left_in=stage))


async def test_a_caller_who_leaves_the_queue_has_made_no_call(serve: Serve, gemini: Emulator) -> None:
    gemini.faults.append(Fault(delay_seconds=1))
    body = json.dumps(ASK).encode()
    async with serve(max_in_flight=1) as client, asyncio.TaskGroup() as tasks, Changes(client) as changes:
        tasks.create_task(send(client, GENERATION))
        await called(gemini)
        async with asking(client, head("/generate-image", ACCEPT["events"], len(body)) + body):
            await asyncio.sleep(0.2)

        assert await changes.come_to(one("caller_left", attempts=0, left_in="queue"))


@pytest.mark.parametrize("type_", ["application/json", "multipart/form-data; boundary=x"])
async def test_a_caller_who_leaves_while_uploading_is_not_counted(client: httpx2.AsyncClient, type_: str) -> None:
    path = "/generate-image" if "json" in type_ else "/generate-image/with-references"
    async with Changes(client) as changes:
        async with asking(client, head(path, "*/*", 100_000, type_) + b'{"prompt": "'):
            await asyncio.sleep(0.2)

        assert await changes.come_to({})


@asynccontextmanager
async def impatient(settings: Settings) -> AsyncGenerator[httpx2.AsyncClient]:
    """The service on its own server, which cuts callers who do not read."""
    async with (
        under_our_own_server(settings, caller_idle_timeout_seconds=0.5) as port,
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client,
    ):
        yield client


def parts(*images: bytes) -> str:
    encoded = [{"inlineData": {"mimeType": "image/jpeg", "data": base64.b64encode(image).decode()}} for image in images]
    chunks = [{"candidates": [{"content": {"role": "model", "parts": [part]}, "index": 0}]} for part in encoded]
    return "".join(f"data: {json.dumps(chunk)}\r\n\r\n" for chunk in chunks)


@pytest.mark.parametrize("kind", ACCEPT)
async def test_a_caller_who_does_not_read_the_image_is_slow(settings: Settings, gemini: Emulator, kind: str) -> None:
    gemini.faults.append(Fault(image_base64=base64.b64encode(noise(1, 12_000_000)).decode()))
    body = json.dumps(ASK).encode()
    sent = head("/generate-image", ACCEPT[kind], len(body)) + body
    async with impatient(settings) as client, Changes(client) as changes, asking(client, sent):
        assert await changes.come_to(one("slow_reader", left_in="answer"))


async def test_a_caller_who_does_not_read_the_drafts_is_slow_too(settings: Settings, gemini: Emulator) -> None:
    """
    What makes the image is cancelled then, and that is no failure of its own.
    """
    stream = {"Content-Type": "text/event-stream"}
    drafts = parts(*(noise(seed, 6_000_000) for seed in range(6)))
    gemini.faults.append(Fault(body=drafts, headers=stream, chunk_bytes=1, stall_seconds=20))
    body = json.dumps(ASK | {"includeDrafts": True}).encode()
    sent = head("/generate-image", ACCEPT["events"], len(body)) + body
    async with impatient(settings) as client, Changes(client) as changes, asking(client, sent):
        assert await changes.come_to(one("slow_reader", left_in="transfer"))


@pytest.mark.parametrize("kind", ACCEPT)
async def test_a_turn_without_its_caller_is_counted_once(
    serve: Serve, gemini: Emulator, tmp_path: Path, kind: str
) -> None:
    """
    It is finished and kept; what Gemini did is counted, and that nobody waited for it.
    """
    gemini.faults.append(Fault(delay_seconds=0.5))
    body = json.dumps(ASK).encode()
    async with serve(data_dir=tmp_path) as client, Changes(client) as changes:
        url = (await client.post("/chats", json={})).json()["url"]
        async with asking(client, head(f"{url}/turns", ACCEPT[kind], len(body)) + body):
            await called(gemini)

        assert await changes.come_to(one("caller_left", left_in="first_byte"))
        assert (await client.get(url)).json()["turns"][0]["state"] == "succeeded"
