"""Starting the process: as a newcomer, as an operator who forgot something; and the papers that come with it."""

import asyncio
import os
import re
import signal
import sys
import tomllib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import httpx2
import pytest
from pydantic_core import PydanticUndefined

from app import errors
from app.settings import Settings

ROOT = Path(__file__).parent.parent


@asynccontextmanager
async def process(
    folder: Path, *arguments: str, module: str = "app", **environment: str
) -> AsyncGenerator[asyncio.subprocess.Process]:
    """`python -m app` in an empty folder, with nothing in its environment but what is given."""
    running = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *arguments,
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        yield running
    finally:
        if running.returncode is None:
            running.kill()
        await running.communicate()


async def line_with(running: asyncio.subprocess.Process, words: str) -> str:
    assert running.stdout
    seen = []
    async with asyncio.timeout(20):
        async for raw in running.stdout:
            seen.append(line := raw.decode())
            if words in line:
                return line
    raise AssertionError("".join(seen))


async def test_without_a_key_make_run_says_that_it_is_a_demo(tmp_path: Path) -> None:
    async with process(tmp_path, "--demo-without-key", PORT="0") as running:
        first = await line_with(running, "emulator")
        port = (await line_with(running, "Uvicorn running")).split(" (")[0].rpartition(":")[2]
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            answer = await client.post("/generate-image", json={"prompt": "x"}, headers={"Accept": "image/*"})
        running.send_signal(signal.SIGTERM)
        code = await asyncio.wait_for(running.wait(), 10)

    assert "GEMINI_API_KEY" in first
    assert answer.status_code == 200
    assert answer.content.startswith(b"\xff\xd8")
    assert answer.headers["x-demo"] == "true"
    assert code in (0, -signal.SIGTERM)


async def test_with_a_key_in_a_file_it_runs_on_gemini(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("GEMINI_API_KEY=a-key\n")
    async with process(tmp_path, "--demo-without-key", PORT="0") as running:
        first = await line_with(running, "Running on")
        port = (await line_with(running, "Uvicorn running")).split(" (")[0].rpartition(":")[2]
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            ready = await client.get("/readyz")

    assert first.startswith("Running on Gemini")
    assert ready.json() == {"status": "ready", "demo": False}
    assert "x-demo" not in ready.headers


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({}, ["GEMINI_API_KEY", "DEMO=true"]),
        ({"DEMO": "true", "HOST": "0.0.0.0"}, ["SERVICE_API_KEYS", "ALLOW_ANONYMOUS"]),
        ({"GEMINI_API_KEY": "k", "PORT": "eighty"}, ["PORT"]),
        ({"GEMINI_API_KEY": "k", "SERVICE_API_KEYS": "sesame"}, ["SERVICE_API_KEYS", "name:secret"]),
        ({"GEMINI_API_KEY": "k", "MODELS": '{"a": {"nope": 1}}'}, ["MODELS", "nope"]),
        ({"GEMINI_API_KEY": "k", "MODELS": "{"}, ["MODELS"]),
        ({"GEMINI_API_KEY": "k", "CORS_ALLOW_ORIGINS": "localhost:3000"}, ["CORS_ALLOW_ORIGINS", "scheme://host"]),
        ({"GEMINI_API_KEY": "k", "DEFAULT_MODEL": "../x"}, ["DEFAULT_MODEL"]),
        ({"DEMO": "true", "RECORDED_DIR": "/nowhere/at/all"}, ["RECORDED_DIR"]),
        (
            {"PORT": "eighty", "MODELS": "{", "CHAT_TTL": "soon", "SERVICE_API_KEYS": "sesame"},
            [
                "PORT: input should be a valid integer",
                "(it has 6 characters). Port to listen on",
                "MODELS: is not valid",
                "CHAT_TTL",
                "30d",
                "SERVICE_API_KEYS",
            ],
        ),
        ({"HOST": "0.0.0.0"}, ["GEMINI_API_KEY", "SERVICE_API_KEYS", "ALLOW_ANONYMOUS"]),
    ],
)
async def test_what_is_wrong_is_named_and_nothing_starts(
    tmp_path: Path, environment: dict[str, str], words: list[str]
) -> None:
    async with process(tmp_path, **environment) as running:
        output, _ = await asyncio.wait_for(running.communicate(), 20)

    assert running.returncode == 1
    for word in words:
        assert word in output.decode()
    assert "Traceback" not in output.decode()
    assert "sesame" not in output.decode()


async def test_the_entrypoint_is_an_application_that_any_server_can_run(tmp_path: Path) -> None:
    """
    FastAPI's command takes it from pyproject.toml and wants an object, not a factory.
    """
    entrypoint = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["fastapi"]["entrypoint"]
    async with process(tmp_path, entrypoint, "--port", "0", module="uvicorn", DEMO="true") as running:
        port = (await line_with(running, "Uvicorn running")).split(" (")[0].rpartition(":")[2]
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            ready = await client.get("/readyz")

    assert ready.json()["demo"] is True


async def test_the_emulator_runs_alone(tmp_path: Path) -> None:
    async with process(tmp_path, "--port", "0", module="app.emulator") as running:
        line = await line_with(running, "Emulating")

    assert "http://127.0.0.1:" in line


async def test_a_service_without_chats_loads_nothing_for_them(tmp_path: Path) -> None:
    heavy = "{'sqlalchemy', 'alembic', 'obstore', 'psycopg'}"
    code = f"import app.main, sys; print({heavy} & sys.modules.keys())"
    command = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await command.communicate()

    assert printed.decode().strip() == "set()"


def documented_default(value: object) -> str:
    if value is None or value is PydanticUndefined or value in ((), {}):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, timedelta):
        return f"{value.days}d"
    return f"{value:g}" if isinstance(value, float) else str(value)


def knobs() -> list[tuple[str, str]]:
    found = []
    for name, field in Settings.model_fields.items():
        alias = field.validation_alias
        shown = str(getattr(alias, "choices", [name])[-1])
        found.append((shown.upper(), documented_default(field.default)))
    return found


def test_env_example_lists_every_setting_with_its_default() -> None:
    lines = re.findall(r"^# ([A-Z_]+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE)

    assert lines == knobs()


def test_the_readme_lists_every_setting_with_its_default() -> None:
    table = (ROOT / "README.md").read_text().partition("## Settings")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([A-Z_]+)` \| `?(.*?)`? \| .+ \|$", table, re.MULTILINE)

    assert rows == knobs()


def test_every_setting_explains_itself() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name


def test_the_readme_names_every_problem_code() -> None:
    classes: list[type[errors.ServiceError]] = [
        errors.Internal,
        *errors.CallerError.__subclasses__(),
        *errors.Refused.__subclasses__(),
    ]
    classes += [errors.UpstreamError, *errors.UpstreamError.__subclasses__(), *errors.StorageError.__subclasses__()]
    readme = (ROOT / "README.md").read_text()

    for error in classes:
        assert f"`{error.code}`" in readme
        assert error.__name__ in (errors.__doc__ or "")
        assert f"{error.status} {error.code}" in (errors.__doc__ or "")
