"""deploy/backup.md: its commands, run as they stand there, bring chats back."""

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from app.emulator import Emulator
from tests.conftest import Serve
from tests.storages import Knobs, Postgres, _programs

PAGE = (Path(__file__).parent.parent / "deploy" / "backup.md").read_text()


def commands(heading: str, purpose: str) -> str:
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    blocks: list[str] = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    return next(block for block in blocks if block.startswith(f"# {purpose}\n"))


def paste(folder: Path, blocks: Sequence[str], **environment: str) -> None:
    programs = _programs()
    path = f"{programs}:{os.environ['PATH']}" if programs else os.environ["PATH"]
    for block in blocks:
        made = subprocess.run(
            ["bash", "-euc", block],
            cwd=folder,
            env={"PATH": path, **environment},
            capture_output=True,
            text=True,
            timeout=60,
            umask=0o022,
        )
        assert made.returncode == 0, made.stdout + made.stderr


async def a_chat(client: httpx2.AsyncClient) -> tuple[str, bytes]:
    """Its address, and the image of its only turn."""
    chat = (await client.post("/chats", json={"prompt": "A cat", "imageSize": "1K"})).headers["location"]
    return chat, (await client.get(f"{chat}/turns/1/image")).content


@dataclass(frozen=True, slots=True)
class KeptIn:
    """A database for chats: the settings for it, and the page's commands."""

    knobs: Knobs
    environment: dict[str, str]
    back_up: str
    restore: str


@pytest.fixture(params=["SQLite", "SQLite with Python", "PostgreSQL"])
def kept_in(request: pytest.FixtureRequest, tmp_path: Path) -> KeptIn:
    heading, _, means = request.param.partition(" with ")
    knobs: Knobs = {"data_dir": tmp_path / "data"}
    environment: dict[str, str] = {}
    if heading == "PostgreSQL":
        server: Postgres = request.getfixturevalue("_postgres")
        knobs["database_url"] = environment["DATABASE_URL"] = server.database()
    elif not means and shutil.which("sqlite3") is None:
        pytest.skip("sqlite3 is not installed (Debian: sqlite3)")
    purpose = f"back up with {means}" if means else "back up"
    return KeptIn(knobs, environment, commands(heading, purpose), commands(heading, "restore"))


async def test_chats_come_back_from_a_backup(serve: Serve, gemini: Emulator, tmp_path: Path, kept_in: KeptIn) -> None:
    """
    The backup is made while the service runs, with rows that are in SQLite's write-ahead log only. What came after it
    is gone.
    """
    async with serve(**kept_in.knobs) as client:
        chat, image = await a_chat(client)
        paste(tmp_path, [kept_in.back_up, commands("A folder", "back up")], **kept_in.environment)
        later, _ = await a_chat(client)
        await client.delete(chat)

    shutil.rmtree(tmp_path / "data" / "blobs")
    paste(tmp_path, [commands("A folder", "restore"), kept_in.restore], **kept_in.environment)

    async with serve(**kept_in.knobs) as client:
        restored = await client.get(f"{chat}/turns/1/image")
        turn = await client.post(f"{chat}/turns", json={"prompt": "Blue, please"})
        assert (await client.get(later)).status_code == 404
    assert restored.content == image
    assert (turn.status_code, turn.json()["turn"], turn.json()["warnings"]) == (200, 2, [])


def open_to_others(*folders: Path) -> list[Path]:
    """Those of the folders and of what is in them with which other users of the machine may do anything."""
    found = [one for folder in folders for one in (folder, *folder.rglob("*"))]
    return [one for one in found if one.stat().st_mode & 0o077]


async def test_other_users_of_the_machine_cannot_read_a_backup(
    serve: Serve, gemini: Emulator, tmp_path: Path, kept_in: KeptIn
) -> None:
    """
    A backup holds what the service keeps closed, and so does what is restored before the service has run on it.
    """
    async with serve(**kept_in.knobs) as client:
        await a_chat(client)
        paste(tmp_path, [kept_in.back_up, commands("A folder", "back up")], **kept_in.environment)
    kept = sum(one.is_file() for one in (tmp_path / "backup").rglob("*"))
    exposed = open_to_others(tmp_path / "backup")

    shutil.rmtree(tmp_path / "data")
    paste(tmp_path, [kept_in.restore, commands("A folder", "restore")], **kept_in.environment)

    assert kept > 1
    assert exposed == []
    assert open_to_others(tmp_path / "data") == []
