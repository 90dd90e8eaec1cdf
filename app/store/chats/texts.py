"""The table `texts`: long texts of chats and turns, each stored once by its digest, so that forks share them."""

import hashlib

from sqlalchemy import delete, exists, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from app.store.blobs import GRACE_SECONDS
from app.store.database import Database
from app.store.tables import chats, texts, turns

INLINE_CHARS = 4_000
"""Longest document of a turn that is stored in the turn's own row."""

_BATCH = 100


def store(connection: Connection, database: Database, text: str) -> str:
    """Store an ASCII text, and return its digest. The same transaction has to insert a row that refers to it."""
    digest = hashlib.sha256(text.encode("ascii")).hexdigest()
    dialect = sqlite if database.is_sqlite else postgresql
    connection.execute(
        dialect.insert(texts)
        .values(digest=digest, touched_at=database.now, text=text)
        # The update locks the row, so that a concurrent `cleanup` does not delete it.
        .on_conflict_do_update(index_elements=[texts.c.digest], set_={"touched_at": database.now})
    )
    return digest


async def cleanup(database: Database) -> None:
    """Delete the texts that no chat and no turn refers to."""
    unreferenced = (
        texts.c.touched_at < database.now - GRACE_SECONDS,
        ~exists().where(chats.c.instruction_digest == texts.c.digest),
        ~exists().where(turns.c.document_digest == texts.c.digest),
    )

    def transaction(connection: Connection) -> int:
        batch = texts.c.digest.in_(select(texts.c.digest).where(*unreferenced).limit(_BATCH))
        return len(connection.execute(delete(texts).where(batch, *unreferenced).returning(texts.c.digest)).all())

    while await database.write(transaction):
        pass
