"""Migrations bring a database to the newest version, and stored chats survive them."""

import asyncio
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import closing
from pathlib import Path
from typing import Any

import alembic.autogenerate
import pytest
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Connection

from app.domain.errors import ServiceError, StorageUnavailable
from app.emulator import Emulator
from app.store.database import Database
from app.store.migrate import HEAD, migrate
from app.store.tables import metadata
from tests.conftest import Serve, settings_for
from tests.storages import Overrides
from tests.stored_chats import execute, fetched, stored_characters
from tests.test_chats import Chat, begin


@pytest.fixture
async def database(storage: Overrides) -> AsyncGenerator[Database]:
    database = Database.from_settings(settings_for("http://127.0.0.1:1", **storage))
    yield database
    await database.aclose()


async def test_migrations_make_the_tables_of_the_code(database: Database) -> None:
    def differences(connection: Connection) -> Any:
        return alembic.autogenerate.compare_metadata(MigrationContext.configure(connection), metadata)

    await migrate(database)

    assert await database.read(differences) == []


async def test_replicas_can_migrate_at_the_same_time(storage: Overrides) -> None:
    databases = [Database.from_settings(settings_for("http://127.0.0.1:1", **storage)) for _ in range(4)]

    await asyncio.gather(*(migrate(one) for one in databases))

    for one in databases:
        await one.aclose()


async def test_without_permission_to_migrate_an_old_database_is_an_error(database: Database) -> None:
    with pytest.raises(StorageUnavailable, match="Run the migrations"):
        await migrate(database, allowed=False)

    await migrate(database)
    await migrate(database, allowed=False)


async def test_a_database_of_a_later_version_is_refused(database: Database, storage: Overrides) -> None:
    await migrate(database)
    await execute(storage, "UPDATE alembic_version SET version_num = '9999'")

    with pytest.raises(ServiceError, match="newer than this service"):
        await migrate(database)


def test_the_newest_migration_is_the_one_that_the_code_requires() -> None:
    folder = Path(__file__).parent.parent / "app" / "store" / "migrations"

    assert ScriptDirectory(str(folder)).get_heads() == [HEAD]


async def test_chats_of_the_previous_version_continue(serve: Serve, gemini: Emulator, storage: Overrides) -> None:
    """
    The previous version stored long texts in the rows of chats and turns. The first fork moves them to `texts`.
    """
    instruction = "Draw with ink. " * 1000
    async with serve(**storage) as client:
        chat = await begin(client, systemInstruction=instruction)
        assert (await chat.say("A cat. " * 1000)).is_success
    (long_text,) = [text for (text,) in await fetched(storage, "SELECT text FROM texts") if text.startswith("{")]
    defaults = f'{{"system_instruction": "{instruction}", "image_size": "1K"}}'
    for statement in (
        f"UPDATE turns SET document_digest = NULL, document = '{long_text}'",
        f"""UPDATE chats SET instruction_digest = NULL, document = '{{"defaults": {defaults}, "title": "A cat."}}'""",
        "DROP INDEX turns_document_digest_idx",
        "DROP INDEX chats_instruction_digest_idx",
        *(f"ALTER TABLE {one} DROP COLUMN bytes" for one in ("chats", "turns")),
    ):
        await execute(storage, statement)
    await drop_references(storage)
    later = ("end_user_usage", "usage", "reservations", "api_keys", "callers")
    for table in ("texts", *later, "signing_keys", "deliveries", "generation_blobs", "generations"):
        await execute(storage, f"DROP TABLE {table}")
    await execute(storage, "UPDATE alembic_version SET version_num = '0001'")

    async with serve(**storage) as client:
        chat = Chat(client, chat.url)
        listed = (await client.get("/chats")).json()["chats"]
        before = await chat.read()
        forks = [(await client.post(f"{chat.url}/fork")).json() for _ in range(3)]
        third = await Chat(client, forks[-1]["url"]).say("Blue, please")
        size = await stored_characters(storage)

    assert listed[0]["defaults"]["systemInstruction"] == f"{instruction[:200]}…"
    assert before["defaults"]["systemInstruction"] == instruction
    assert [one["turns"][0]["prompt"] for one in forks] == [before["turns"][0]["prompt"]] * 3
    assert third.status_code == 200
    assert gemini.calls[-1].body["systemInstruction"]["parts"] == [{"text": instruction}]
    assert size < 2 * (len(instruction) + len(long_text)) + 10_000


async def drop_references(storage: Overrides) -> None:
    """Remove the columns that refer to `texts`."""
    if "database_url" in storage:
        await execute(storage, "ALTER TABLE chats DROP COLUMN instruction_digest")
        await execute(storage, "ALTER TABLE turns DROP COLUMN document_digest")
        return
    with closing(sqlite3.connect(Path(storage["data_dir"]) / "chats.db")) as database:
        database.executescript(
            "PRAGMA writable_schema = ON;"
            "UPDATE sqlite_schema SET sql = replace(replace(sql, "
            "', instruction_digest VARCHAR(64) CONSTRAINT chats_instruction_digest_fkey REFERENCES texts (digest)',"
            "''), "
            "', document_digest VARCHAR(64) CONSTRAINT turns_document_digest_fkey REFERENCES texts (digest)', '');"
        )
