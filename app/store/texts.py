"""Long texts of chats and turns, each kept once by its digest: a fork refers to the texts of the chat it came from."""

import hashlib

from sqlalchemy import delete, exists, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from app.store.blob_index import GARBAGE_SECONDS
from app.store.database import Database
from app.store.tables import chats, texts, turns

INLINE_CHARS = 4_000
"""Longest document of a turn that is kept in the turn's own row."""

_BATCH = 100


def store(connection: Connection, database: Database, text: str) -> str:
    """Keep `text`, which is ASCII; returns its digest.

    A row that refers to it has to follow in the same transaction.
    """
    digest = hashlib.sha256(text.encode("ascii")).hexdigest()
    dialect = sqlite if database.is_sqlite else postgresql
    connection.execute(
        dialect.insert(texts)
        .values(digest=digest, touched_at=database.now, text=text)
        # The update locks the row, so that a sweep at the same moment does not delete it.
        .on_conflict_do_update(index_elements=[texts.c.digest], set_={"touched_at": database.now})
    )
    return digest


async def sweep(database: Database) -> None:
    """Delete the texts that no chat and no turn refers to."""
    unused = (
        texts.c.touched_at < database.now - GARBAGE_SECONDS,
        ~exists().where(chats.c.instruction_digest == texts.c.digest),
        ~exists().where(turns.c.document_digest == texts.c.digest),
    )

    def work(connection: Connection) -> int:
        batch = texts.c.digest.in_(select(texts.c.digest).where(*unused).limit(_BATCH))
        return len(connection.execute(delete(texts).where(batch, *unused).returning(texts.c.digest)).all())

    while await database.write(work):
        pass
