"""The operator's check: what would not work is said before a caller finds out, and for nothing."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from app.doctor import examine
from app.emulator import Emulator
from tests.conftest import settings_for
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


async def test_settings_that_are_wrong_are_all_named(gemini_url: str, tmp_path: Path) -> None:
    code, said = await doctor(tmp_path, gemini_url, PORT="x", CHAT_TTL="y")

    assert code == 1
    assert "FAILURE  settings     PORT" in said
    assert "FAILURE  settings     CHAT_TTL" in said
    assert "Traceback" not in said


async def examined(gemini_url: str, folder: Path, **knobs: Any) -> tuple[bool, str]:
    """What the doctor says, without a process of its own."""
    said: list[str] = []
    settings = settings_for(gemini_url, **{"data_dir": folder, **knobs})
    works = await examine(settings, lambda finding: said.append(str(finding)))
    return works, "\n".join(said)


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"gemini_api_key": "invalid-very-secret"}, ["FAILURE  credentials", "API_KEY_INVALID"]),
        ({"google_gemini_base_url": "http://127.0.0.1:1"}, ["FAILURE  credentials", "No connection"]),
        ({"default_model": "gemini-9-image"}, ["FAILURE  models", "DEFAULT_MODEL gemini-9-image"]),
        ({"host": "0.0.0.0"}, ["FAILURE  start", "SERVICE_API_KEYS"]),
        ({"database_url": "postgresql://me:very-secret@127.0.0.1:1/chats"}, ["FAILURE  database", "DATABASE_URL"]),
        ({"blob_url": "s4://very-secret"}, ["FAILURE  blobs", "BLOB_URL"]),
        ({"migrate": False}, ["FAILURE  database", "migrations have to be run"]),
    ],
)
async def test_a_service_that_would_not(
    gemini: Emulator, gemini_url: str, tmp_path: Path, knobs: dict[str, Any], words: list[str]
) -> None:
    works, said = await examined(gemini_url, tmp_path, **knobs)

    assert not works
    for word in words:
        assert word in said
    assert "very-secret" not in said


async def test_what_is_about_to_change_is_a_warning(gemini: Emulator, gemini_url: str, tmp_path: Path) -> None:
    works, said = await examined(gemini_url, tmp_path, fallback_model="gemini-2.5-flash-image")

    assert works
    assert "warning  models       Google may switch off gemini-2.5-flash-image from 2026-10-02" in said
