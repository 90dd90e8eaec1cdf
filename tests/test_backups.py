"""The commands in deploy/backup.md back up chats and restore them."""

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
from tests.programs import require
from tests.storages import Overrides, Postgres, postgres_programs

PAGE = (Path(__file__).parent.parent / "deploy" / "backup.md").read_text()


def commands(heading: str, purpose: str) -> str:
    """Return the page's shell commands for a purpose, from the section with this heading."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    blocks: list[str] = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    return next(block for block in blocks if block.startswith(f"# {purpose}\n"))


def run(folder: Path, blocks: Sequence[str], **environment: str) -> None:
    """Run shell commands in the folder."""
    programs = postgres_programs()
    path = f"{programs}:{os.environ['PATH']}" if programs else os.environ["PATH"]
    for block in blocks:
        finished = subprocess.run(
            ["bash", "-euc", block],
            cwd=folder,
            env={"PATH": path, **environment},
            capture_output=True,
            text=True,
            timeout=60,
            umask=0o022,
        )
        assert finished.returncode == 0, finished.stdout + finished.stderr


async def add_chat(client: httpx2.AsyncClient) -> tuple[str, bytes]:
    """Add a chat with one turn. Return its path, and the image of the turn."""
    chat = (await client.post("/chats", json={"prompt": "A cat", "imageSize": "1K"})).headers["location"]
    return chat, (await client.get(f"{chat}/turns/1/image")).content


@dataclass(frozen=True, slots=True)
class BackedUp:
    """A chat database: the settings that select it, and the page's commands for it."""

    overrides: Overrides
    environment: dict[str, str]
    back_up: str
    restore: str


@pytest.fixture(params=["SQLite", "SQLite with Python", "PostgreSQL"])
def chat_database(request: pytest.FixtureRequest, tmp_path: Path) -> BackedUp:
    heading, _, means = request.param.partition(" with ")
    overrides: Overrides = {"data_dir": tmp_path / "data"}
    environment: dict[str, str] = {}
    if heading == "PostgreSQL":
        server: Postgres = request.getfixturevalue("_postgres")
        overrides["database_url"] = environment["DATABASE_URL"] = server.database()
    elif not means:
        require("sqlite3", "sqlite3")
    purpose = f"back up with {means}" if means else "back up"
    return BackedUp(overrides, environment, commands(heading, purpose), commands(heading, "restore"))


async def test_a_backup_restores_chats(serve: Serve, gemini: Emulator, tmp_path: Path, chat_database: BackedUp) -> None:
    """
    The backup runs while the service runs, and some rows are only in SQLite's write-ahead log. A chat that is added
    after the backup is not restored.
    """
    async with serve(**chat_database.overrides) as client:
        chat, image = await add_chat(client)
        run(tmp_path, [chat_database.back_up, commands("A folder", "back up")], **chat_database.environment)
        later, _ = await add_chat(client)
        await client.delete(chat)

    shutil.rmtree(tmp_path / "data" / "blobs")
    run(tmp_path, [commands("A folder", "restore"), chat_database.restore], **chat_database.environment)

    async with serve(**chat_database.overrides) as client:
        restored = await client.get(f"{chat}/turns/1/image")
        turn = await client.post(f"{chat}/turns", json={"prompt": "Blue, please"})
        assert (await client.get(later)).status_code == 404
    assert restored.content == image
    assert (turn.status_code, turn.json()["turn"], turn.json()["warnings"]) == (200, 2, [])


def open_to_others(*folders: Path) -> list[Path]:
    """Return the folders, and files in them, on which other users of the machine have any permission."""
    found = [one for folder in folders for one in (folder, *folder.rglob("*"))]
    return [one for one in found if one.stat().st_mode & 0o077]


async def test_other_users_of_the_machine_cannot_read_a_backup(
    serve: Serve, gemini: Emulator, tmp_path: Path, chat_database: BackedUp
) -> None:
    """
    This holds for the backup, and for restored files before the service has used them.
    """
    async with serve(**chat_database.overrides) as client:
        await add_chat(client)
        run(tmp_path, [chat_database.back_up, commands("A folder", "back up")], **chat_database.environment)
    saved = sum(one.is_file() for one in (tmp_path / "backup").rglob("*"))
    exposed = open_to_others(tmp_path / "backup")

    shutil.rmtree(tmp_path / "data")
    run(tmp_path, [chat_database.restore, commands("A folder", "restore")], **chat_database.environment)

    assert saved > 1
    assert exposed == []
    assert open_to_others(tmp_path / "data") == []
