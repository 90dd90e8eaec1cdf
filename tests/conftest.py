"""Shared fixtures. Tests use real servers on real ports: the service with the real SDK, and the emulator as Gemini."""

import asyncio
import atexit
import base64
import io
import os
import random
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any

import httpx2
import hypothesis
import pytest
import trustme
from dotenv import dotenv_values
from PIL import Image

from app.emulator import Emulator, served
from app.main import create_app
from app.server.exit import exit_process
from app.server.lifecycle import Server, create_server
from app.settings import Settings
from tests.storages import S3, Overrides, Postgres, environment, postgres, s3

_real = dotenv_values(".env") | os.environ
REAL_KEY = _real.get("GOOGLE_API_KEY") or _real.get("GEMINI_API_KEY") or ""
REAL_BASE_URL = _real.get("GOOGLE_GEMINI_BASE_URL") or "https://generativelanguage.googleapis.com"
"""Only tests that are marked `live` use them."""

for _name in [name for name in os.environ if name.startswith(("GOOGLE_", "GEMINI_"))]:
    del os.environ[_name]  # tests must not use a developer's real key

hypothesis.settings.register_profile("quick", deadline=None)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=600)  # `make test-slow` chooses it
hypothesis.settings.load_profile("quick")

KEY = "test-gemini-key-that-must-stay-secret"

DATA_DIR = Path(tempfile.mkdtemp(prefix="gemini-images-"))
atexit.register(shutil.rmtree, DATA_DIR, ignore_errors=True)

Serve = Callable[..., AbstractAsyncContextManager[httpx2.AsyncClient]]


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """Choose the service's event loop, uvloop. `TEST_LOOP=asyncio` selects Python's own."""
    return "asyncio", {"use_uvloop": os.environ.get("TEST_LOOP") != "asyncio"}


@pytest.fixture(scope="session")
async def _emulator(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[tuple[Emulator, str]]:
    emulator = Emulator()
    certificates = {}
    if pytestconfig.option.markexpr != "live":
        # A client needs 20 ms to read the system's certificates, and no test needs them.
        file = tmp_path_factory.mktemp("tls") / "nobody.pem"
        trustme.CA().cert_pem.write_to_path(str(file))
        certificates = {"SSL_CERT_FILE": str(file)}
    with environment(**certificates):
        async with served(emulator) as url:
            yield emulator, url


@pytest.fixture
def gemini(_emulator: tuple[Emulator, str]) -> Emulator:
    """The emulator that stands in for Gemini. Queue a `Fault` to see a failure; read `calls` to see what was sent."""
    emulator, _ = _emulator
    emulator.clear()
    return emulator


@pytest.fixture(scope="session")
def gemini_url(_emulator: tuple[Emulator, str]) -> str:
    _, url = _emulator
    return url


@pytest.fixture(scope="session")
def settings(gemini_url: str) -> Settings:
    return settings_for(gemini_url)


def settings_for(gemini_url: str, **overrides: Any) -> Settings:
    """Return settings that depend only on the arguments.

    Waits are short. The circuit breaker is off and the retry budget is large, so that tests do not affect each other.
    """
    calm = {
        "retry_initial_backoff_seconds": 0.02,
        "circuit_breaker_failures": 0,
        "retry_budget": 10,
        "data_dir": DATA_DIR,
    }
    return Settings(
        _env_file=None, **{"gemini_api_key": KEY, "google_gemini_base_url": gemini_url, **calm, **overrides}
    )


@pytest.fixture(scope="session")
def serve(settings: Settings) -> Serve:
    """Return a function that runs another service with other settings within a block, and yields a client of it."""

    @asynccontextmanager
    async def start(served_on: str = "127.0.0.1", **overrides: Any) -> AsyncGenerator[httpx2.AsyncClient]:
        changed = Settings.model_validate({**dict(settings), **overrides})
        async with (
            served(create_app(changed), served_on) as url,
            httpx2.AsyncClient(
                base_url=url.replace("0.0.0.0", "127.0.0.1"),
                timeout=30,
                trust_env=False,
                verify=False,  # the service speaks plain HTTP, and reading certificates takes 20 ms
            ) as client,
        ):
            yield client

    return start


@pytest.fixture
def serve_alone(serve: Serve, tmp_path: Path) -> Serve:
    """Return `serve` for services with a folder of their own, so that no other one takes their queued generations."""

    def start(served_on: str = "127.0.0.1", **overrides: Any) -> AbstractAsyncContextManager[httpx2.AsyncClient]:
        return serve(served_on, **{"data_dir": tmp_path, **overrides})

    return start


@asynccontextmanager
async def running(server: Server) -> AsyncGenerator[int]:
    """Run a server in this process; yield its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    server.capture_signals = nullcontext  # type: ignore[method-assign,assignment]  # signals are for the tests
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:  # noqa: ASYNC110 - uvicorn has only the flag
        await asyncio.sleep(0.01)
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await serving


@asynccontextmanager
async def under_our_own_server(settings: Settings, **overrides: object) -> AsyncGenerator[int]:
    """Run the service in this process as `python -m app` does; yield its port."""
    changed = Settings.model_validate({**dict(settings), **overrides})
    async with running(create_server(create_app(changed), changed)) as port:
        yield port


@pytest.fixture(scope="session")
async def _client(serve: Serve) -> AsyncGenerator[httpx2.AsyncClient]:
    async with serve() as client:
        yield client


@pytest.fixture
def client(_client: httpx2.AsyncClient, gemini: Emulator) -> httpx2.AsyncClient:
    """A client of the service, with an empty emulator as Gemini."""
    return _client


@pytest.fixture(scope="session")
def _postgres() -> Iterator[Postgres]:
    with postgres() as server:
        yield server


@pytest.fixture(scope="session")
def _s3() -> Iterator[S3]:
    with s3() as server:
        yield server


@pytest.fixture
def bucket(_s3: S3) -> str:
    """The URL of an empty bucket."""
    return _s3.bucket()


STORAGES = ["sqlite and a folder", pytest.param("postgresql and s3", marks=pytest.mark.slow)]
"""The second one needs two servers and some minutes, so `make test-slow` runs its tests."""


@pytest.fixture(scope="session")
async def _client_of_replicas(serve: Serve, _postgres: Postgres, _s3: S3) -> AsyncGenerator[httpx2.AsyncClient]:
    async with serve(database_url=_postgres.database(), blob_url=_s3.bucket()) as client:
        yield client


@pytest.fixture(params=STORAGES)
def client_of_either(request: pytest.FixtureRequest, gemini: Emulator) -> httpx2.AsyncClient:
    """A client like `client`, once for each storage."""
    name = "_client" if request.param == STORAGES[0] else "_client_of_replicas"
    client: httpx2.AsyncClient = request.getfixturevalue(name)
    return client


@pytest.fixture(params=STORAGES)
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Overrides:
    """An empty storage for chats: settings for `serve`."""
    if request.param == STORAGES[0]:
        return {"data_dir": tmp_path}
    database: Postgres = request.getfixturevalue("_postgres")
    buckets: S3 = request.getfixturevalue("_s3")
    return {"database_url": database.database(), "blob_url": buckets.bucket(), "data_dir": tmp_path}


async def health_while(client: httpx2.AsyncClient, work: asyncio.Task[httpx2.Response]) -> float:
    """Return the most CPU time in seconds that this process uses during a `/healthz`, until the work is done.

    CPU time does not depend on what else runs on the machine.
    """
    longest = 0.0
    while not work.done():
        began = time.process_time()
        await client.get("/healthz")
        longest = max(longest, time.process_time() - began)
        await asyncio.sleep(0.002)
    return longest


async def wait_for_calls(gemini: Emulator, times: int = 1) -> None:
    """Wait until Gemini has been called so many times.

    Raises:
        TimeoutError: it was not within 30 seconds.
    """
    async with asyncio.timeout(30):
        while len(gemini.calls) < times:  # noqa: ASYNC110 - the emulator has no event to wait for
            await asyncio.sleep(0.01)


async def metric(client: httpx2.AsyncClient, name: str) -> float:
    text = (await client.get("/metrics")).text
    return next((float(line.split()[-1]) for line in text.splitlines() if line.startswith(name)), 0.0)


async def soon(client: httpx2.AsyncClient, name: str, value: float, seconds: float = 5) -> bool:
    """Return whether a metric reaches a value within `seconds`."""
    for _ in range(round(50 * seconds)):
        if await metric(client, name) == value:
            return True
        await asyncio.sleep(0.02)
    return False


def image_file(format_: str = "PNG", size: tuple[int, int] = (64, 48), colour: str = "teal", **options: Any) -> bytes:
    """Return an image file."""
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, format_, **options)
    return out.getvalue()


_JPEG_START = bytes.fromhex(
    "ffd8ffe000104a46494600010100000100010000ffc00011080400040003012200021101031101ffda000c03010002110311003f00"
)


def image_of(response: httpx2.Response) -> bytes:
    """Return the image of a JSON response, which must be a success."""
    assert response.is_success, response.text[:500]
    image = response.json()["image"]
    assert image["url"] == f"data:{image['mimeType']};base64,{image['data']}"
    return base64.b64decode(image["data"], validate=True)


def noise_jpeg(seed: int, size: int) -> bytes:
    """Return a JPEG of about `size` bytes. Its header says 1024 × 1024; its pixels are noise."""
    return _JPEG_START + random.Random(seed).randbytes(size).replace(b"\xff", b"\xfe") + b"\xff\xd9"


_status = pytest.StashKey[int]()


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    session.config.stash[_status] = exitstatus


def pytest_unconfigure(config: pytest.Config) -> None:
    """Exit as the service does, because services that used obstore ran in this process."""
    if "obstore" in sys.modules and not hasattr(config, "workerinput"):
        exit_process(config.stash.get(_status, 1))
