"""The operator's check: what would not work is said before a caller finds out, and for nothing."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from app.emulator import Emulator
from tests.test_starting import ROOT


async def doctor(folder: Path, gemini_url: str, **environment: str) -> tuple[int | None, str]:
    own = {
        "PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], "DATA_DIR": str(folder / "data"),
        "GEMINI_API_KEY": "very-secret", "GOOGLE_GEMINI_BASE_URL": gemini_url,
    }  # fmt: skip
    running = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "app.doctor",
        cwd=folder, env=own | environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await asyncio.wait_for(running.communicate(), 60)
    return running.returncode, output.decode()


async def test_a_service_that_would_work(gemini: Emulator, gemini_url: str, tmp_path: Path) -> None:
    code, said = await doctor(tmp_path, gemini_url, SERVICE_API_KEYS="web:very-secret,batch:very-secret")

    assert code == 0, said
    assert "SERVICE_API_KEYS=web:***,batch:***" in said
    assert "very-secret" not in said
    for part in ("start", "credentials", "models", "clock", "database", "blobs", "memory"):
        assert f"ok       {part}" in said
    assert not gemini.calls  # nothing that costs


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"GEMINI_API_KEY": "invalid-very-secret"}, ["FAILURE  credentials", "API_KEY_INVALID"]),
        ({"GOOGLE_GEMINI_BASE_URL": "http://127.0.0.1:1"}, ["FAILURE  credentials", "No connection"]),
        ({"DEFAULT_MODEL": "gemini-9-image"}, ["FAILURE  models", "DEFAULT_MODEL gemini-9-image"]),
        ({"HOST": "0.0.0.0"}, ["FAILURE  start", "SERVICE_API_KEYS"]),
        ({"DATABASE_URL": "postgresql://me:very-secret@127.0.0.1:1/chats"}, ["FAILURE  database", "DATABASE_URL"]),
        ({"BLOB_URL": "s4://very-secret"}, ["FAILURE  blobs", "BLOB_URL"]),
        ({"MIGRATE": "false"}, ["FAILURE  database", "migrations have to be run"]),
        ({"PORT": "x", "CHAT_TTL": "y"}, ["FAILURE  settings     PORT", "FAILURE  settings     CHAT_TTL"]),
    ],
)
async def test_a_service_that_would_not(
    gemini: Emulator, gemini_url: str, tmp_path: Path, environment: dict[str, str], words: list[str]
) -> None:
    code, said = await doctor(tmp_path, gemini_url, **environment)

    assert code == 1
    for word in words:
        assert word in said
    assert "Traceback" not in said
    assert "very-secret@" not in said


async def test_what_is_about_to_change_is_a_warning(gemini: Emulator, gemini_url: str, tmp_path: Path) -> None:
    code, said = await doctor(tmp_path, gemini_url, FALLBACK_MODEL="gemini-2.5-flash-image")

    assert code == 0
    assert "warning  models       Google may switch off gemini-2.5-flash-image from 2026-10-02" in said
