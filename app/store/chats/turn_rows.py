"""Rows of the tables `turns` and `turn_blobs`: read, insert and copy them inside a transaction."""

from typing import Any

from sqlalchemy import ColumnElement, case, func, insert, literal, select, true, update
from sqlalchemy.engine import Connection

from app.domain.chat import Turn
from app.store.blobs import BlobStore
from app.store.chats import texts
from app.store.chats.serialization import load_turn
from app.store.database import Database
from app.store.tables import texts as texts_table
from app.store.tables import turn_blobs, turns

DOCUMENT = case(
    (turns.c.document_digest.is_(None), turns.c.document),
    else_=select(texts_table.c.text).where(texts_table.c.digest == turns.c.document_digest).scalar_subquery(),
).label("document")
"""The turn's document, from its own row or from `texts`."""

_COLUMNS = (turns.c.number, turns.c.state, turns.c.created_at, turns.c.replaced_by, turns.c.copied, DOCUMENT)


def select_turns(
    connection: Connection, blobs: BlobStore, chat_id: str, *conditions: ColumnElement[bool]
) -> tuple[Turn, ...]:
    """Return the chat's turns that meet the conditions, ordered by number."""
    query = select(*_COLUMNS).where(turns.c.chat_id == chat_id, *conditions).order_by(turns.c.number)
    return tuple(load_turn(row, blobs.blob) for row in connection.execute(query))


def insert_turn(
    connection: Connection,
    database: Database,
    chat_id: str,
    turn: Turn,
    created_at: float,
    document: str,
    blob_sizes: dict[str, int],
) -> None:
    """Insert the turn's row and its references to blobs.

    Args:
        connection: of the transaction.
        database: the database of the connection.
        chat_id: the turn's chat.
        turn: the turn.
        created_at: time of the turn, in seconds since 1970 by the database's clock.
        document: the turn's document, as JSON.
        blob_sizes: sizes in bytes of the turn's blobs, by digest.
    """
    connection.execute(
        insert(turns).values(
            chat_id=chat_id,
            number=turn.number,
            state=turn.state,
            created_at=created_at,
            bytes=len(document) + sum(blob_sizes.values()),
            **_document_columns(connection, database, document),
        )
    )
    if blob_sizes:
        links = [{"chat_id": chat_id, "number": turn.number, "digest": digest} for digest in sorted(blob_sizes)]
        connection.execute(insert(turn_blobs), links)


def copy_turns(connection: Connection, chat_id: str, new_id: str, last: int) -> None:
    """Copy the turns up to number `last` to another chat. Documents and blobs are shared, not copied."""
    copied = turns.c.chat_id == chat_id, turns.c.number <= last
    # A replacement after `last` is not copied, so the copy must not refer to it.
    replaced_by = case((turns.c.replaced_by <= last, turns.c.replaced_by))
    same = ["number", "state", "created_at", "document", "document_digest", "bytes"]
    rows = select(literal(new_id), replaced_by, true(), *(turns.c[name] for name in same)).where(*copied)
    connection.execute(insert(turns).from_select(["chat_id", "replaced_by", "copied", *same], rows))
    links = select(literal(new_id), turn_blobs.c.number, turn_blobs.c.digest).where(
        turn_blobs.c.chat_id == chat_id, turn_blobs.c.number <= last
    )
    connection.execute(insert(turn_blobs).from_select(["chat_id", "number", "digest"], links))


def move_long_documents(connection: Connection, database: Database, chat_id: str) -> None:
    """Move long documents of the chat's turns to `texts`. Rows that are older than migration 0002 contain them."""
    long = select(turns.c.number).where(
        turns.c.chat_id == chat_id,
        turns.c.document_digest.is_(None),
        func.length(turns.c.document) > texts.INLINE_CHARS,
    )
    for number in connection.execute(long).scalars().all():
        this = turns.c.chat_id == chat_id, turns.c.number == number
        document = connection.execute(select(turns.c.document).where(*this)).scalar_one()
        connection.execute(update(turns).where(*this).values(_document_columns(connection, database, document)))


def _document_columns(connection: Connection, database: Database, document: str) -> dict[str, Any]:
    """Return the values of the columns that hold a turn's document. Store a long document in `texts`."""
    if len(document) <= texts.INLINE_CHARS:
        return {"document": document, "document_digest": None}
    return {"document": "", "document_digest": texts.store(connection, database, document)}
