"""Run the service in a process of its own, so that tests can signal, kill, limit and measure it."""

import asyncio
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from tests.conftest import DATA_DIR, KEY


@asynccontextmanager
async def process(gemini_url: str, **settings: object) -> AsyncGenerator[tuple[asyncio.subprocess.Process, str]]:
    """Run the service; yield its process and its URL.

    Args:
        gemini_url: the URL of Gemini.
        settings: settings and other environment variables, by their names in lower case.
    """
    own = {
        "PATH": os.environ["PATH"],
        "PORT": "0",
        "GEMINI_API_KEY": KEY,
        "GOOGLE_GEMINI_BASE_URL": gemini_url,
        "DATA_DIR": str(DATA_DIR),
    }
    started = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "app",
        env=own | {name.upper(): str(value) for name, value in settings.items()},
        stderr=asyncio.subprocess.PIPE,
    )
    assert started.stderr
    try:
        while b"Uvicorn running on" not in (line := await started.stderr.readline()):
            assert line, "the service has not started"
        drained = asyncio.create_task(started.stderr.read())
        yield started, line.split(b" on ")[1].split()[0].decode()
    finally:
        if started.returncode is None:
            started.kill()
        await started.wait()
        await drained
