"""Real servers on real ports: the service, behind it the real SDK, behind that the emulator."""

import asyncio
import atexit
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
import pytest
from dotenv import dotenv_values
from PIL import Image

from app.emulator import Emulator, served
from app.main import create_app
from app.server.exit import exit_process
from app.server.lifecycle import Server, create_server
from app.settings import Settings
from tests.storages import S3, Knobs, Postgres, postgres, s3

_real = dotenv_values(".env") | os.environ
REAL_KEY = _real.get("GOOGLE_API_KEY") or _real.get("GEMINI_API_KEY") or ""
REAL_BASE_URL = _real.get("GOOGLE_GEMINI_BASE_URL") or "https://generativelanguage.googleapis.com"
"""For the tests that are marked live, and for nothing else."""

for _name in [name for name in os.environ if name.startswith(("GOOGLE_", "GEMINI_"))]:
    del os.environ[_name]  # a developer's real key stays out of the tests

KEY = "test-gemini-key-that-nobody-may-see"

DATA_DIR = Path(tempfile.mkdtemp(prefix="gemini-images-"))
atexit.register(shutil.rmtree, DATA_DIR, ignore_errors=True)

Serve = Callable[..., AbstractAsyncContextManager[httpx2.AsyncClient]]


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """The event loop that the service runs on; `TEST_LOOP=asyncio` is Python's own."""
    return "asyncio", {"use_uvloop": os.environ.get("TEST_LOOP") != "asyncio"}


@pytest.fixture(scope="session")
async def _emulator() -> AsyncGenerator[tuple[Emulator, str]]:
    emulator = Emulator()
    async with served(emulator) as url:
        yield emulator, url


@pytest.fixture
def gemini(_emulator: tuple[Emulator, str]) -> Emulator:
    """Gemini, as far as the service can tell: queue a `Fault` to see a failure, read `calls` to see what was sent."""
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


def settings_for(gemini_url: str, **knobs: Any) -> Settings:
    """Settings that look at nothing but their arguments.

    Waits are short, and one test's failures do not open a circuit or use up a budget for the next one.
    """
    calm = {
        "retry_initial_backoff_seconds": 0.02,
        "circuit_breaker_failures": 0,
        "retry_budget": 10,
        "data_dir": DATA_DIR,
    }
    return Settings(_env_file=None, **{"gemini_api_key": KEY, "google_gemini_base_url": gemini_url, **calm, **knobs})


@pytest.fixture(scope="session")
def serve(settings: Settings) -> Serve:
    """A further service, with other settings, for as long as the block lasts; yields a client of it."""

    @asynccontextmanager
    async def start(served_on: str = "127.0.0.1", **knobs: Any) -> AsyncGenerator[httpx2.AsyncClient]:
        changed = Settings.model_validate({**dict(settings), **knobs})
        async with (
            served(create_app(changed), served_on) as url,
            httpx2.AsyncClient(
                base_url=url.replace("0.0.0.0", "127.0.0.1"),
                timeout=30,
                trust_env=False,
            ) as client,
        ):
            yield client

    return start


@asynccontextmanager
async def running(server: Server) -> AsyncGenerator[int]:
    """A server in this process; its port."""
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
async def under_our_own_server(settings: Settings, **knobs: object) -> AsyncGenerator[int]:
    """The service as `python -m app` runs it, in this process; its port."""
    changed = Settings.model_validate({**dict(settings), **knobs})
    async with running(create_server(create_app(changed), changed)) as port:
        yield port


@pytest.fixture(scope="session")
async def _client(serve: Serve) -> AsyncGenerator[httpx2.AsyncClient]:
    async with serve() as client:
        yield client


@pytest.fixture
def client(_client: httpx2.AsyncClient, gemini: Emulator) -> httpx2.AsyncClient:
    """A caller of the service, with a fresh emulator behind it."""
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
"""The second one needs two servers and a few minutes: `make test-slow` runs its tests."""


@pytest.fixture(scope="session")
async def _client_of_replicas(serve: Serve, _postgres: Postgres, _s3: S3) -> AsyncGenerator[httpx2.AsyncClient]:
    async with serve(database_url=_postgres.database(), blob_url=_s3.bucket()) as client:
        yield client


@pytest.fixture(params=STORAGES)
def client_of_either(request: pytest.FixtureRequest, gemini: Emulator) -> httpx2.AsyncClient:
    """`client`, of a service with each storage in turn."""
    name = "_client" if request.param == STORAGES[0] else "_client_of_replicas"
    client: httpx2.AsyncClient = request.getfixturevalue(name)
    return client


@pytest.fixture(params=STORAGES)
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Knobs:
    """A storage for chats with nothing in it: settings for `serve`."""
    if request.param == STORAGES[0]:
        return {"data_dir": tmp_path}
    database: Postgres = request.getfixturevalue("_postgres")
    buckets: S3 = request.getfixturevalue("_s3")
    return {"database_url": database.database(), "blob_url": buckets.bucket(), "data_dir": tmp_path}


async def health_while(client: httpx2.AsyncClient, work: asyncio.Task[httpx2.Response]) -> float:
    """The longest that `/healthz` takes until the work is done, in seconds."""
    longest = 0.0
    while not work.done():
        began = time.perf_counter()
        await client.get("/healthz")
        longest = max(longest, time.perf_counter() - began)
        await asyncio.sleep(0.002)
    return longest


async def called(gemini: Emulator, times: int = 1) -> None:
    """Return once Gemini has been called so often."""
    while len(gemini.calls) < times:  # noqa: ASYNC110 - the emulator has no other way to tell
        await asyncio.sleep(0.01)


def picture(format_: str = "PNG", size: tuple[int, int] = (64, 48), colour: str = "teal", **options: Any) -> bytes:
    """A real image file."""
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, format_, **options)
    return out.getvalue()


_JPEG_START = bytes.fromhex(
    "ffd8ffe000104a46494600010100000100010000ffc00011080400040003012200021101031101ffda000c03010002110311003f00"
)


def noise(seed: int, size: int) -> bytes:
    """A JPEG of about `size` bytes, 1024 × 1024 by its header; its pixels are noise."""
    return _JPEG_START + random.Random(seed).randbytes(size).replace(b"\xff", b"\xfe") + b"\xff\xd9"


_status = pytest.StashKey[int]()


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    session.config.stash[_status] = exitstatus


def pytest_unconfigure(config: pytest.Config) -> None:
    """The services under test end with this process, and it has to end as theirs does."""
    if "obstore" in sys.modules and not hasattr(config, "workerinput"):
        exit_process(config.stash.get(_status, 1))
