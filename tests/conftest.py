"""Real servers on real ports: the service, behind it the real SDK, behind that the emulator."""

import io
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import httpx2
import pytest
from dotenv import dotenv_values
from PIL import Image

from app.emulator import Emulator, served
from app.main import create_app
from app.settings import Settings

_real = dotenv_values(".env") | os.environ
REAL_KEY = _real.get("GOOGLE_API_KEY") or _real.get("GEMINI_API_KEY") or ""
REAL_BASE_URL = _real.get("GOOGLE_GEMINI_BASE_URL") or "https://generativelanguage.googleapis.com"
"""For the tests that are marked live, and for nothing else."""

for _name in [name for name in os.environ if name.startswith(("GOOGLE_", "GEMINI_"))]:
    del os.environ[_name]  # a developer's real key stays out of the tests

KEY = "test-gemini-key-that-nobody-may-see"

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
    """Settings that look at nothing but their arguments."""
    return Settings(_env_file=None, **{"gemini_api_key": KEY, "google_gemini_base_url": gemini_url, **knobs})


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


@pytest.fixture(scope="session")
async def _client(serve: Serve) -> AsyncGenerator[httpx2.AsyncClient]:
    async with serve() as client:
        yield client


@pytest.fixture
def client(_client: httpx2.AsyncClient, gemini: Emulator) -> httpx2.AsyncClient:
    """A caller of the service, with a fresh emulator behind it."""
    return _client


def picture(format_: str = "PNG", size: tuple[int, int] = (64, 48), colour: str = "teal", **options: Any) -> bytes:
    """A real image file."""
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, format_, **options)
    return out.getvalue()
