"""Our own wheel, installed with pip and run from an empty folder (`make test-install`)."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from tests.test_start import ROOT, line_with

pytestmark = pytest.mark.install


async def done(folder: Path, *command: str | Path, **environment: str) -> tuple[int | None, str]:
    """Exit code and output."""
    inherited = {name: value for name, value in os.environ.items() if name.startswith(("PATH", "HOME", "PIP_", "SSL_"))}
    running = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env=inherited | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(running.communicate(), 300)
    return running.returncode, output.decode()


@pytest.fixture(scope="module")
async def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel into a new virtual environment with the dependencies of pyproject.toml; return the path of
    `gemini-images`.
    """
    folder = tmp_path_factory.mktemp("installed")
    for command in (
        (sys.executable, "-m", "venv", folder / "venv"),
        (folder / "venv/bin/pip", "install", "--quiet", "--disable-pip-version-check", f"{ROOT}[demo]"),
    ):
        code, said = await done(folder, *command)
        assert code == 0, said
    return folder / "venv/bin/gemini-images"


@asynccontextmanager
async def serving(
    command: Path, folder: Path, *arguments: str, **environment: str
) -> AsyncGenerator[httpx2.AsyncClient]:
    running = await asyncio.create_subprocess_exec(
        command, *arguments, cwd=folder, env={"PORT": "0", **environment},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        line = await line_with(running, "Uvicorn running")
        found = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert found
        async with httpx2.AsyncClient(base_url=found[0], timeout=30, trust_env=False) as client:
            yield client
    finally:
        running.send_signal(signal.SIGTERM)
        await asyncio.wait_for(running.communicate(), 30)


async def test_the_installed_command_serves_stores_chats_and_runs_the_doctor(installed: Path, tmp_path: Path) -> None:
    async with serving(installed, tmp_path, "--demo-without-key") as client:
        image = await client.post("/generate-image", json={"prompt": "x"}, headers={"Accept": "image/*"})
        chat = await client.post("/chats", json={"prompt": "A cat", "imageSize": "1K"})
        documentation = await client.get("/docs")
        playground = await client.get("/web/main.js")
    doctor = await done(tmp_path, installed, "doctor", DEMO="true")
    migrated = await done(tmp_path, installed, "migrate")
    refused = await done(tmp_path, installed)

    assert image.content.startswith(b"\xff\xd8")
    assert chat.status_code == 201
    assert documentation.status_code == 200
    assert playground.status_code == 200
    assert (tmp_path / "data/chats.db").exists()
    assert doctor[0] == 0, doctor[1]
    assert migrated[0] == 0, migrated[1]
    assert refused[0] == 1
    assert "GEMINI_API_KEY" in refused[1]
