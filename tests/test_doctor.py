"""`python -m app doctor` reports what would not work, and costs nothing."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from app.emulator import Emulator
from app.server.doctor import run_checks
from tests.callers import add_key
from tests.conftest import settings_for
from tests.test_start import ROOT


async def doctor(folder: Path, gemini_url: str, **environment: str) -> tuple[int | None, str]:
    own = {
        "PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], "DATA_DIR": str(folder / "data"),
        "GEMINI_API_KEY": "very-secret", "GOOGLE_GEMINI_BASE_URL": gemini_url,
    }  # fmt: skip
    running = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "app", "doctor",
        cwd=folder, env=own | environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await asyncio.wait_for(running.communicate(), 60)
    return running.returncode, output.decode()


async def test_working_settings_pass_every_check(gemini: Emulator, gemini_url: str, tmp_path: Path) -> None:
    code, said = await doctor(tmp_path, gemini_url, SERVICE_API_KEYS="web:very-secret-1,batch:very-secret-2")

    assert code == 0, said
    assert "SERVICE_API_KEYS=web:***,batch:***" in said
    assert "very-secret" not in said
    for part in ("start", "credentials", "models", "clock", "database", "blobs", "memory"):
        assert f"ok       {part}" in said
    assert not gemini.calls  # nothing that costs


async def test_every_invalid_setting_is_reported(gemini_url: str, tmp_path: Path) -> None:
    code, said = await doctor(tmp_path, gemini_url, PORT="x", CHAT_TTL="y")

    assert code == 1
    assert "FAILURE  settings     PORT" in said
    assert "FAILURE  settings     CHAT_TTL" in said
    assert "Traceback" not in said


async def test_checks_that_depend_on_an_invalid_setting_are_skipped_and_others_run(
    gemini_url: str, tmp_path: Path
) -> None:
    code, said = await doctor(
        tmp_path, gemini_url, DATABASE_URL="mysql://u:very-secret@h", PORT="x", GEMINI_API_KEY="\ufeffvery-secret"
    )

    assert code == 1
    for variable in ("DATABASE_URL", "PORT", "GEMINI_API_KEY"):
        assert f"FAILURE  settings     {variable}" in said
    assert "skipped  start        not checked, because PORT" in said
    assert "skipped  credentials  not checked, because GEMINI_API_KEY" in said
    assert "skipped  database     not checked, because DATABASE_URL" in said
    assert "memory       " in said
    assert "very-secret" not in said


async def test_a_failing_check_does_not_stop_the_others(gemini_url: str, tmp_path: Path) -> None:
    code, said = await doctor(
        tmp_path, gemini_url, ALL_PROXY="socks5://h:1", SSL_CERT_FILE="/no/such/file", NO_PROXY=""
    )

    assert code == 1
    assert "FAILURE  settings     ALL_PROXY" in said
    assert "FAILURE  settings     SSL_CERT_FILE" in said
    assert "ok       database" in said
    assert "Traceback" not in said


async def run_doctor(gemini_url: str, folder: Path, **overrides: Any) -> tuple[bool, str]:
    """Run the checks in this process. Return whether the service would work, and the findings as text."""
    said: list[str] = []
    settings = settings_for(gemini_url, **{"data_dir": folder, **overrides})
    works = await run_checks(settings, lambda finding: said.append(str(finding)))
    return works, "\n".join(said)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"gemini_api_key": "invalid-very-secret"}, ["FAILURE  credentials", "API_KEY_INVALID"]),
        (
            {"google_gemini_base_url": "http://127.0.0.1:1"},
            ["FAILURE  credentials", "could not connect", "connection refused", "skipped  models"],
        ),
        ({"default_model": "gemini-9-image"}, ["FAILURE  models", "DEFAULT_MODEL gemini-9-image"]),
        ({"host": "0.0.0.0"}, ["FAILURE  start", "SERVICE_API_KEYS"]),
        (
            {"database_url": "postgresql://me:very-secret@127.0.0.1:1/chats"},
            ["FAILURE  database", "refused", "skipped  blobs"],
        ),
        ({"blob_url": "s4://very-secret"}, ["FAILURE  blobs", "BLOB_URL"]),
        ({"auto_migrate": False}, ["FAILURE  database", "Run the migrations"]),
    ],
)
async def test_settings_that_would_not_work_are_a_failure(
    gemini: Emulator, gemini_url: str, tmp_path: Path, overrides: dict[str, Any], words: list[str]
) -> None:
    works, said = await run_doctor(gemini_url, tmp_path, **overrides)

    assert not works
    for word in words:
        assert word in said
    assert "very-secret" not in said
    assert "Error" not in said


async def test_a_demo_skips_the_checks_of_gemini(gemini_url: str, tmp_path: Path) -> None:
    works, said = await run_doctor(gemini_url, tmp_path, demo=True)

    assert works
    assert "skipped  credentials  not checked, nor are models and Google's clock, because of DEMO" in said


async def test_a_model_that_google_will_switch_off_is_a_warning(
    gemini: Emulator, gemini_url: str, tmp_path: Path
) -> None:
    works, said = await run_doctor(gemini_url, tmp_path, fallback_model="gemini-2.5-flash-image")

    assert works
    assert "warning  models       Google may switch off gemini-2.5-flash-image from 2026-10-02" in said


async def test_keys_that_are_required_and_do_not_exist_are_a_warning(
    gemini: Emulator, gemini_url: str, tmp_path: Path
) -> None:
    _, without = await run_doctor(gemini_url, tmp_path, require_keys=True)
    await add_key({"data_dir": tmp_path})
    _, with_one = await run_doctor(gemini_url, tmp_path, require_keys=True)

    assert "warning  keys" in without
    assert "python -m app keys add" in without
    assert "ok       keys         1 of 1 callers" in with_one
