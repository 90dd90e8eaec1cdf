"""Rows of the table `chats`: read, lock and insert them inside a transaction, and check an owner's limits."""

import json
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import ColumnElement, case, func, insert, or_, select, true
from sqlalchemy.engine import Connection

from app.domain.chat import Chat
from app.domain.errors import ChatLimitReached, ChatNotFound
from app.store import serialization
from app.store.chats import texts
from app.store.chats.serialization import excerpt
from app.store.database import Database
from app.store.tables import chats
from app.store.tables import texts as texts_table

EXCERPT_CHARS = 200
"""Characters of a system instruction in lists of chats. A longer instruction is stored in the table `texts`."""

_INSTRUCTION = (
    select(texts_table.c.text)
    .where(texts_table.c.digest == chats.c.instruction_digest)
    .scalar_subquery()
    .label("instruction")
)
"""A long system instruction, as a JSON string."""


@dataclass(frozen=True, slots=True)
class StorageLimits:
    """The most that one owner may store; 0 means no limit."""

    chats: int = 0
    bytes: int = 0
    """Documents and blobs of all chats of the owner. Data that several chats share counts once for each chat."""


class ChatRows:
    """Statements on single chats. Each method runs inside the transaction of the given connection."""

    def __init__(self, database: Database, ttl_seconds: float | None, limits: StorageLimits) -> None:
        """
        Args:
            database: the database of the chats.
            ttl_seconds: a chat expires so many seconds after its last change; `None` means never.
            limits: the most that one owner may store.
        """
        self._database = database
        self._ttl = ttl_seconds
        self._limits = limits

    @property
    def alive(self) -> ColumnElement[bool]:
        """Condition: the chat has not expired."""
        return true() if self._ttl is None else chats.c.updated_at > self._database.now - self._ttl

    @property
    def unleased(self) -> ColumnElement[bool]:
        """Condition: no lease on the chat is valid, so no turn is in progress."""
        return or_(chats.c.lease_until.is_(None), chats.c.lease_until < self._database.now)

    @property
    def in_progress(self) -> ColumnElement[bool]:
        """Extra column of the queries whose rows `load_chat` reads: whether a turn is in progress."""
        return (~self.unleased).label("in_progress")

    def find(self, connection: Connection, chat_id: str, owner: str, *, full_instruction: bool = False) -> Chat:
        """Return the chat without its turns.

        Args:
            connection: of the transaction.
            chat_id: id of the chat.
            owner: owner of the chat.
            full_instruction: return a long system instruction in full, not as an excerpt.

        Raises:
            ChatNotFound: the owner has no chat with this id, or it has expired.
        """
        chat, _ = self._select(connection, chat_id, owner, lock=False, full_instruction=full_instruction)
        return chat

    def lock(
        self, connection: Connection, chat_id: str, owner: str, *, full_instruction: bool = False
    ) -> tuple[Chat, float]:
        """Lock the chat's row until the transaction ends. Arguments and errors are those of `find`.

        Returns:
            The chat without its turns, and the seconds until its lease ends (0 without a lease).
        """
        return self._select(connection, chat_id, owner, lock=True, full_instruction=full_instruction)

    def _select(
        self, connection: Connection, chat_id: str, owner: str, *, lock: bool, full_instruction: bool
    ) -> tuple[Chat, float]:
        left = case((self.unleased, 0.0), else_=chats.c.lease_until - self._database.now).label("lease_seconds_left")
        instruction = (_INSTRUCTION,) if full_instruction else ()
        query = select(*chats.c, self.in_progress, left, *instruction).where(
            chats.c.id == chat_id, chats.c.owner == owner, self.alive
        )
        row = connection.execute(query.with_for_update() if lock else query).one_or_none()
        if row is None:
            raise ChatNotFound("There is no such chat, or it has expired.")
        return load_chat(row, full_instruction=full_instruction), row.lease_seconds_left

    def insert(self, connection: Connection, chat: Chat, *, turn_bytes: int = 0, expected_bytes: int = 0) -> Chat:
        """Insert the chat's row, and return the chat with its times.

        Args:
            connection: of the transaction.
            chat: the chat to insert.
            turn_bytes: bytes of the turns that a fork starts with.
            expected_bytes: known bytes of the first turn, which is saved later.

        Raises:
            ChatLimitReached: with this chat the owner would exceed a limit.
        """
        size = len(serialization.to_json(_document(chat))) + turn_bytes
        self.require_within_limits(connection, chat.owner, more_chats=1, more_bytes=size + expected_bytes)
        rows = connection.execute(
            insert(chats)
            .values(
                id=chat.id,
                owner=chat.owner,
                created_at=self._database.now,
                updated_at=self._database.now,
                last_turn=chat.last_turn,
                cost_usd=0.0,
                bytes=size,
                **self.document_columns(connection, chat),
            )
            .returning(chats.c.created_at, chats.c.updated_at)
        )
        row = rows.one()
        return replace(chat, created_at=row.created_at, updated_at=row.updated_at)

    def document_columns(self, connection: Connection, chat: Chat) -> dict[str, Any]:
        """Return the values of the columns that hold the chat's document. Store a long system instruction."""
        document = _document(chat)
        instruction = chat.defaults.system_instruction
        if instruction is None or len(instruction) <= EXCERPT_CHARS:
            return {"document": serialization.to_json(document), "instruction_digest": None}
        document["defaults"]["system_instruction"] = {"excerpt": excerpt(instruction, EXCERPT_CHARS)}
        digest = texts.store(connection, self._database, json.dumps(instruction))
        return {"document": serialization.to_json(document), "instruction_digest": digest}

    def require_within_limits(self, connection: Connection, owner: str, *, more_chats: int, more_bytes: int) -> None:
        """Check that the owner may store so many more chats and bytes.

        Raises:
            ChatLimitReached: the owner would exceed a limit.
        """
        limits = self._limits
        if not limits.bytes and not (limits.chats and more_chats):
            return
        if more_chats and not self._database.is_sqlite:  # SQLite runs only one writing transaction at a time
            connection.execute(select(func.pg_advisory_xact_lock(func.hashtext(owner))))
        stored = select(func.count(), func.coalesce(func.sum(chats.c.bytes), 0)).where(
            chats.c.owner == owner, self.alive
        )
        count, size = connection.execute(stored).one()
        if limits.chats and more_chats and count + more_chats > limits.chats:
            raise ChatLimitReached(
                f"You have {count:,} chats, and the limit is {limits.chats:,}. Delete chats that you no longer need.",
                limit="chats",
                most=limits.chats,
            )
        if limits.bytes and int(size) + more_bytes > limits.bytes:
            raise ChatLimitReached(
                f"Your chats use {int(size):,} bytes, and this request needs {more_bytes:,} more. The limit is "
                f"{limits.bytes:,} bytes. Delete chats that you no longer need.",
                limit="bytes",
                most=limits.bytes,
            )


@serialization.raises_storage_damaged
def load_chat(row: Any, *, full_instruction: bool = False) -> Chat:
    """Return the chat of a row. A long system instruction is an excerpt unless `full_instruction` is true."""
    document: dict[str, Any] = json.loads(row.document)
    defaults = document["defaults"]
    if row.instruction_digest is not None:
        instruction = json.loads(row.instruction) if full_instruction else defaults["system_instruction"]["excerpt"]
        defaults = defaults | {"system_instruction": instruction}
    elif not full_instruction and defaults.get("system_instruction"):
        defaults = defaults | {"system_instruction": excerpt(defaults["system_instruction"], EXCERPT_CHARS)}
    return Chat(
        id=row.id,
        owner=row.owner,
        defaults=serialization.load_defaults(defaults),
        last_turn=row.last_turn,
        created_at=row.created_at,
        updated_at=row.updated_at,
        title=document.get("title"),
        cost_usd=row.cost_usd,
        forked_from=document.get("forkedFrom"),
        forked_at=document.get("forkedAt"),
        in_progress=bool(row.in_progress),
    )


def _document(chat: Chat) -> dict[str, Any]:
    return {
        "defaults": serialization.dump_defaults(chat.defaults),
        "title": chat.title,
        "forkedFrom": chat.forked_from,
        "forkedAt": chat.forked_at,
    }
