"""A service that is killed at any point never asks Gemini twice for one key, and loses nothing that was stored."""

import asyncio
import base64
import json
import signal
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx2
import pytest

from app.emulator import Emulator, Fault, served
from tests.conftest import STORAGES, image_of, noise_jpeg
from tests.held_storage import ANSWER_UPLOAD, IMAGE_UPLOAD, HeldBucket, HeldDatabase, until
from tests.processes import process
from tests.raw_servers import listening
from tests.storages import S3, S3_ENVIRONMENT, Overrides

KINDS = ("plain", "asynchronous", "turn")

PROMPT = "A lighthouse that is painted once"
OTHER_PROMPT = "Another image, which takes the only slot"
KEY = "order-1"
IMAGE = noise_jpeg(17, 300_000)
LARGE_IMAGE = noise_jpeg(18, 12_000_000)
"""Larger than what the kernel takes from a service whose client does not read."""

_ROW = "SELECT count(*) FROM generations WHERE idempotency_key = 'order-1'"


@dataclass
class Scene:
    """One order, the service that is killed during it, and the service that is started afterwards."""

    kind: Literal["plain", "asynchronous", "turn"]
    storage: Overrides
    emulator: Emulator
    gemini_url: str
    database: HeldDatabase
    bucket: HeldBucket | None
    image: bytes = IMAGE
    url: str = ""
    chat_url: str = ""
    sending: list[asyncio.Task[Any]] = field(default_factory=list)
    location: str | None = None
    """Of the asynchronous generation, if the service had accepted it."""
    answer: httpx2.Response | None = None
    """The answer, if it arrived before the crash."""

    @property
    def calls(self) -> int:
        """Number of times that Gemini was asked for the order's image."""
        return sum(PROMPT in json.dumps(call.body["contents"]) for call in self.emulator.calls)

    def request(self, *, respond_async: bool) -> httpx2.Request:
        path = f"{self.chat_url}/turns" if self.kind == "turn" else "/generate-image"
        headers = {"Idempotency-Key": KEY} | ({"Prefer": "respond-async"} if respond_async else {})
        return httpx2.Request("POST", self.url + path, json={"prompt": PROMPT, "imageSize": "1K"}, headers=headers)

    async def send(self) -> None:
        """Send the order. For an asynchronous one, return when it was accepted."""
        task = asyncio.create_task(self._send())
        self.sending.append(task)
        if self.kind == "asynchronous":
            await asyncio.wait({task}, timeout=1)

    async def _send(self) -> None:
        with suppress(httpx2.TransportError):
            response = await ask(self.request(respond_async=self.kind == "asynchronous"))
            if response.status_code == 202:
                self.location = urlsplit(response.headers["location"]).path
            else:
                self.answer = response

    def send_without_reading(self) -> socket.socket:
        """Send the order from a client that reads nothing of the response."""
        request = self.request(respond_async=False)
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        address = urlsplit(self.url)
        raw.connect((address.hostname, address.port))
        head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
        raw.sendall(f"POST {request.url.path} HTTP/1.1\r\n{head}\r\n".encode() + request.content)
        return raw

    def answer_with(self, **fault: Any) -> None:
        """Let Gemini answer the order with the image."""
        encoded = base64.b64encode(self.image).decode()
        self.emulator.faults.append(Fault(prompt=PROMPT, image_base64=encoded, **fault))

    def stored_answers(self) -> list[Path]:
        """Return the objects in the folder that name the images of an answer."""
        found = (Path(self.storage["data_dir"]) / "blobs").rglob("*gen_*")
        return [path for path in found if path.is_file() and "#" not in path.name]


async def ask(request: httpx2.Request) -> httpx2.Response:
    async with httpx2.AsyncClient(timeout=60, trust_env=False) as client:
        return await client.send(request)


async def before_the_row(scene: Scene) -> None:
    scene.answer_with()
    await scene.database.hold()
    await scene.send()
    await asyncio.sleep(0.5)


async def while_it_waits_for_a_slot(scene: Scene, *, seconds: float = 60) -> None:
    """MAX_IN_FLIGHT is 1, and a plain request has the slot."""
    scene.answer_with()
    scene.emulator.faults.append(Fault(prompt=OTHER_PROMPT, delay_seconds=seconds))
    other = httpx2.Request("POST", f"{scene.url}/generate-image", json={"prompt": OTHER_PROMPT, "imageSize": "1K"})
    calls = len(scene.emulator.calls)
    scene.sending.append(asyncio.create_task(ask(other)))
    await until(lambda: len(scene.emulator.calls) > calls)
    await scene.send()
    await scene.database.wait_for(_ROW)
    await asyncio.sleep(0.1)


async def before_it_is_marked_as_asked(scene: Scene) -> None:
    await while_it_waits_for_a_slot(scene, seconds=1.5)
    await scene.database.hold()
    await asyncio.wait(scene.sending[:1])
    await asyncio.sleep(0.5)


async def after_it_is_marked_as_asked(scene: Scene) -> None:
    """Gemini accepts the connection and does not read."""
    await scene.send()
    await scene.database.wait_for(_ROW + " AND asked_at IS NOT NULL")


async def during_the_call(scene: Scene) -> None:
    scene.answer_with(delay_seconds=60)
    await scene.send()
    await until(lambda: scene.calls)


async def during_the_answer(scene: Scene) -> None:
    scene.answer_with(stall_seconds=60)
    await scene.send()
    await until(lambda: scene.calls)
    await asyncio.sleep(0.3)


async def before_the_image_is_stored(scene: Scene) -> None:
    if scene.bucket:
        scene.bucket.before = IMAGE_UPLOAD
        scene.answer_with()
        await scene.send()
        async with asyncio.timeout(10):
            await scene.bucket.has_held.wait()
        return
    scene.answer_with(delay_seconds=0.3)
    await scene.send()
    await until(lambda: scene.calls)
    await scene.database.hold()  # without a row for the blob no image of a turn is stored
    await asyncio.sleep(0.8)
    assert not scene.stored_answers()


async def between_the_image_and_the_object(scene: Scene) -> None:
    assert scene.bucket
    scene.bucket.before = ANSWER_UPLOAD
    scene.answer_with()
    await scene.send()
    async with asyncio.timeout(10):
        await scene.bucket.has_held.wait()


async def between_the_object_and_the_commit(scene: Scene) -> None:
    if scene.bucket:
        scene.bucket.after = ANSWER_UPLOAD
        scene.answer_with()
        await scene.send()
        async with asyncio.timeout(10):
            await scene.bucket.has_held.wait()
        return
    scene.answer_with(delay_seconds=0.3)
    await scene.send()
    await until(lambda: scene.calls)
    await scene.database.hold()
    await until(scene.stored_answers)


async def before_the_commit(scene: Scene) -> None:
    """The answer is stored, and the transaction that settles the generation waits for a lock."""
    await between_the_object_and_the_commit(scene)
    await scene.database.hold() if scene.bucket else None
    if scene.bucket:
        scene.bucket.release()
    await asyncio.sleep(0.5)


async def after_the_commit(scene: Scene) -> None:
    """The client has read nothing of the response."""
    scene.answer_with()
    if scene.kind == "asynchronous":
        await scene.send()
    else:
        raw = scene.send_without_reading()
        scene.sending.append(asyncio.create_task(_close_later(raw)))
    await scene.database.wait_for(_ROW + " AND status = 'succeeded'")


async def _close_later(raw: socket.socket) -> None:
    try:
        await asyncio.sleep(60)
    finally:
        raw.close()


async def after_the_response(scene: Scene) -> None:
    scene.answer_with()
    await scene.send()
    await asyncio.wait(scene.sending)
    await scene.database.wait_for(_ROW + " AND status = 'succeeded'")


Point = Callable[[Scene], Awaitable[None]]

IMAGE_AFTER_ALL: list[Point] = [
    before_the_row,
    while_it_waits_for_a_slot,
    before_it_is_marked_as_asked,
    between_the_object_and_the_commit,
    before_the_commit,
    after_the_commit,
    after_the_response,
]
"""Gemini is asked once, before or after the crash, and the caller gets the image."""

NEVER_KNOWN: dict[Point, int] = {
    after_it_is_marked_as_asked: 0,
    during_the_call: 1,
    during_the_answer: 1,
    before_the_image_is_stored: 1,
    between_the_image_and_the_object: 1,
}
"""Calls to Gemini at points after which nobody knows whether there is an image."""

NOT_STORED_BEFORE = (before_the_row, while_it_waits_for_a_slot, before_it_is_marked_as_asked)
"""Gemini is asked after the crash."""

FAST = (during_the_call, before_the_commit)
"""Points that `make test` tries with a plain request on SQLite. `make test-slow` tries everything."""


def combinations(points: list[Point]) -> list[Any]:
    found = []
    for storage in ("sqlite and a folder", "postgresql and s3"):
        for kind in KINDS:
            for point in points:
                is_fast = storage == STORAGES[0] and kind == "plain" and point in FAST
                marks = () if is_fast else (pytest.mark.slow,)
                if storage == STORAGES[0] and point is between_the_image_and_the_object:
                    continue  # two files in a folder cannot be held apart
                if storage == STORAGES[0] and kind != "turn" and point is before_the_image_is_stored:
                    continue  # the answer is stored in one step, which waits for nothing
                found.append(pytest.param(storage, kind, point, marks=marks, id=f"{storage}-{kind}-{point.__name__}"))
    return found


@pytest.fixture
async def scene(
    request: pytest.FixtureRequest, tmp_path: Path, storage_name: str, kind: Any, point: Point
) -> AsyncGenerator[Scene]:
    """A service with an order to come. It is not running yet."""
    async with AsyncExitStack() as stack:
        emulator = Emulator(keep_calls=1000)
        gemini_url = await stack.enter_async_context(served(emulator))
        storage: Overrides = {"data_dir": tmp_path}
        bucket = None
        if storage_name != STORAGES[0]:
            buckets: S3 = request.getfixturevalue("_s3")
            bucket = HeldBucket(buckets.url)
            storage |= {name.lower(): value for name, value in S3_ENVIRONMENT.items()}
            storage["aws_endpoint_url"] = await stack.enter_async_context(served(bucket))
            storage["blob_url"] = buckets.bucket()
            storage["database_url"] = request.getfixturevalue("_postgres").database()
        elif point in (between_the_object_and_the_commit, before_the_commit):
            # The answer is stored although the database is locked, so the service must give the lock up soon.
            storage["database_url"] = f"sqlite:///{tmp_path}/chats.db?timeout=1"
        scene = Scene(kind, storage, emulator, gemini_url, HeldDatabase(storage), bucket)
        if point is after_the_commit:
            scene.image = LARGE_IMAGE
        try:
            yield scene
        finally:
            await scene.database.release()
            if bucket:
                bucket.release()
            for task in scene.sending:
                task.cancel()
            await asyncio.gather(*scene.sending, return_exceptions=True)


@asynccontextmanager
async def running(scene: Scene, gemini_url: str = "", **settings: Any) -> AsyncGenerator[asyncio.subprocess.Process]:
    """Run the service; `scene.url` is its URL."""
    async with process(
        gemini_url or scene.gemini_url,
        **scene.storage,
        chat_lease_seconds=1,
        **settings,
    ) as (service, scene.url):
        yield service


async def crash(scene: Scene, point: Point) -> None:
    """Run a service until it reaches the point, and kill it there."""
    async with AsyncExitStack() as stack:
        limits = {}
        gemini_url = scene.gemini_url
        if point in (while_it_waits_for_a_slot, before_it_is_marked_as_asked):
            limits = {"max_in_flight": 1}
        service = await stack.enter_async_context(running(scene, gemini_url, **limits))
        await prepare(scene)
        if point is after_it_is_marked_as_asked:
            service.send_signal(signal.SIGKILL)
            await service.wait()
            gemini_url = f"http://127.0.0.1:{await stack.enter_async_context(listening(never_read))}"
            service = await stack.enter_async_context(running(scene, gemini_url))
        await point(scene)
        service.send_signal(signal.SIGKILL)
        await service.wait()
        await scene.database.release()
        if scene.bucket:
            scene.bucket.release()


async def prepare(scene: Scene) -> None:
    """Let the service make its tables, and a chat if the order is a turn."""
    headers = {"Idempotency-Key": "first-of-all"}
    body = {"prompt": "First of all", "imageSize": "1K"}
    made = await ask(httpx2.Request("POST", f"{scene.url}/generate-image", json=body, headers=headers))
    assert made.is_success, made.text
    if scene.kind == "turn":
        created = await ask(httpx2.Request("POST", f"{scene.url}/chats", json={"imageSize": "1K"}))
        scene.chat_url = created.headers["location"]


async def never_read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(600)


async def finished(scene: Scene) -> dict[str, Any]:
    """Return the document of the asynchronous generation when it is over."""
    headers = {"Prefer": "wait=10"}
    async with asyncio.timeout(20):
        while True:
            response = await ask(httpx2.Request("GET", f"{scene.url}{scene.location}", headers=headers))
            assert response.is_success, response.text
            document: dict[str, Any] = response.json()
            if document["status"] not in ("queued", "running"):
                return document


def digest(data: bytes) -> str:
    return sha256(data).hexdigest()


def answer(response: httpx2.Response) -> tuple[int, str]:
    """Return the status and the digest of the body. A digest makes a short message if a test fails."""
    return response.status_code, digest(response.content)


def without_request(problem: httpx2.Response) -> dict[str, Any]:
    return {name: value for name, value in problem.json().items() if name != "requestId"}


async def turns_of(scene: Scene) -> list[bytes]:
    """Return the images of the chat."""
    chat = (await ask(httpx2.Request("GET", scene.url + scene.chat_url))).json()
    assert not chat["turnInProgress"]
    images = [ask(httpx2.Request("GET", scene.url + turn["image"]["url"])) for turn in chat["turns"]]
    return [(await image).content for image in images]


@pytest.mark.parametrize(("storage_name", "kind", "point"), combinations(IMAGE_AFTER_ALL))
async def test_the_image_is_delivered_after_a_crash(scene: Scene, point: Point) -> None:
    """
    Either Gemini was not asked before the crash, and is asked once afterwards. Or its answer was stored, and is given
    to everybody who comes back, byte for byte.
    """
    await crash(scene, point)
    calls_before = scene.calls
    async with running(scene):
        document = await finished(scene) if scene.location else None
        calls_by_itself = scene.calls
        first = await ask(scene.request(respond_async=False))
        second = await ask(scene.request(respond_async=False))
        turns = await turns_of(scene) if scene.kind == "turn" else []

    assert calls_before == (0 if point in NOT_STORED_BEFORE else 1)
    assert digest(image_of(first)) == digest(scene.image)
    assert answer(first) == answer(second)
    assert second.headers["idempotent-replayed"] == "true"
    assert scene.calls == 1
    if document is not None:
        assert document["status"] == "succeeded"
        assert calls_by_itself == 1
    if calls_before or document is not None:
        assert first.headers["idempotent-replayed"] == "true"
    if scene.answer is not None:
        assert answer(scene.answer) == answer(first)
        assert "idempotent-replayed" not in scene.answer.headers
    if scene.kind == "turn":
        assert list(map(digest, turns)) == [digest(scene.image)]


@pytest.mark.parametrize(("storage_name", "kind", "point"), combinations(list(NEVER_KNOWN)))
async def test_nothing_is_asked_again_after_a_crash_with_an_unknown_outcome(scene: Scene, point: Point) -> None:
    """
    Gemini may have been paid, and its answer is lost. The key says so for ever, and a new key can ask again.
    """
    await crash(scene, point)
    calls_before = scene.calls
    async with running(scene):
        document = await finished(scene) if scene.location else None
        first = await ask(scene.request(respond_async=False))
        second = await ask(scene.request(respond_async=False))
        calls_after = scene.calls
        again = scene.request(respond_async=False)
        again.headers["Idempotency-Key"] = "order-2"
        other = await ask(again)
        turns = await turns_of(scene) if scene.kind == "turn" else []

    assert calls_before == calls_after == NEVER_KNOWN[point]
    for response in (first, second):
        assert (response.status_code, response.json()["code"]) == (502, "outcome_unknown")
        assert response.json()["mayHaveCost"] is True
        assert response.headers["x-should-retry"] == "false"
        assert response.headers["idempotent-replayed"] == "true"
    assert without_request(first) == without_request(second)
    if scene.kind == "asynchronous":
        assert document is not None
        assert (document["status"], document["mayHaveCost"]) == ("interrupted", True)
        assert document["problem"]["code"] == "outcome_unknown"
    assert image_of(other)
    if scene.kind == "turn":
        assert list(map(digest, turns)) == [digest(image_of(other))]
