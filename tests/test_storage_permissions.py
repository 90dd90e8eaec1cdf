"""Other users of the machine cannot read stored chats."""

import base64
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.emulator import Emulator, Fault
from tests.conftest import Serve, image_file, noise_jpeg
from tests.processes import process
from tests.test_chats import Chat, begin


def permissions_in(folder: Path) -> dict[str, str]:
    """Return the permissions of the folder and of all files and folders in it, by path."""
    found = [folder, *folder.rglob("*")]
    return {str(path.relative_to(folder)): f"{path.stat().st_mode & 0o777:o}" for path in found}


def private_permissions(folder: Path) -> dict[str, str]:
    found = [folder, *folder.rglob("*")]
    return {str(path.relative_to(folder)): "700" if path.is_dir() else "600" for path in found}


@pytest.fixture
def default_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.mark.usefixtures("default_umask")
async def test_other_users_of_the_machine_cannot_read_stored_chats(
    serve: Serve, gemini: Emulator, tmp_path: Path
) -> None:
    data = tmp_path / "new" / "data"
    async with serve(data_dir=data) as client:
        chat = await begin(client)
        gemini.faults.append(Fault(image_base64=base64.b64encode(noise_jpeg(1, 9_000_000)).decode()))
        await chat.upload("A mug", image_file(colour="red"))
        found, wanted = permissions_in(data), private_permissions(data)

    assert {"chats.db", "chats.db-wal", "chats.db-shm", "blobs", "blobs/probe"} <= found.keys()
    assert len(found) > 10
    assert found == wanted
    assert permissions_in(tmp_path / "new")["."] == "700"
    assert os.umask(0o022) == 0o022, "the service must not change the umask of a process that embeds it"


@pytest.mark.usefixtures("default_umask")
async def test_files_that_an_earlier_version_left_open_are_closed(
    serve: Serve, gemini: Emulator, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    async with serve(data_dir=data) as client:
        chat = await begin(client, prompt="A cat")
    for path in [data, *data.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)

    async with serve(data_dir=data) as client:
        assert (await Chat(client, chat.url).say("Blue, please")).json()["turn"] == 2
        found, wanted = permissions_in(data), private_permissions(data)

    assert found == wanted


@pytest.mark.usefixtures("default_umask")
async def test_a_shared_folder_stays_open_but_stored_chats_in_it_are_closed(
    serve: Serve, gemini: Emulator, tmp_path: Path
) -> None:
    data = tmp_path / "shared"
    data.mkdir(0o755)
    (data / "notes.txt").write_text("shared")
    async with serve(data_dir=data) as client:
        await begin(client, prompt="A cat")
        found, wanted = permissions_in(data), private_permissions(data)

    assert found == wanted | {".": "755", "notes.txt": "644"}


async def test_the_service_runs_with_a_private_umask(gemini_url: str, tmp_path: Path) -> None:
    async with process(gemini_url, data_dir=tmp_path) as (service, _):
        status = Path(f"/proc/{service.pid}/status").read_text()

    assert "Umask:\t0077\n" in status


@pytest.mark.usefixtures("default_umask")
async def test_a_file_that_is_no_database_keeps_its_permissions(serve: Serve, tmp_path: Path) -> None:
    file = tmp_path / "important.txt"
    file.write_text("Other programs read this.")
    async with serve(data_dir=tmp_path / "data", database_url=f"sqlite:///{file}") as client:
        response = await client.post("/chats", json={})

    assert response.json()["code"] == "storage_damaged"
    assert f"{file.stat().st_mode & 0o777:o}" == "644"
    assert file.read_text() == "Other programs read this."
