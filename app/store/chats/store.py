"""Chats in the database: add, read, list, fork, remove, and clean up."""

import secrets
from contextlib import suppress
from dataclasses import dataclass, replace

from sqlalchemy import ColumnElement, and_, delete, func, or_, select, true
from sqlalchemy.engine import Connection

from app.domain.chat import Chat, ChatDefaults
from app.domain.errors import ChatNotFound, FieldError, InvalidRequest
from app.store.blobs import BlobIndex, BlobStore
from app.store.chats import texts
from app.store.chats.chat_rows import ChatRows, StorageLimits, load_chat
from app.store.chats.turn_rows import DOCUMENT, copy_turns, move_long_documents, select_turns
from app.store.chats.turns import TurnStore, require_unleased
from app.store.database import Database
from app.store.tables import chats, turns

_BATCH = 100


@dataclass(frozen=True, slots=True)
class CleanupResult:
    """How many objects `cleanup` has deleted."""

    chats: int = 0
    blobs: int = 0
    unfinished: int = 0
    """Files that a crashed process had not finished writing."""


class ChatStore:
    """Verbs for chats. All but `cleanup` see only the chats of the given owner."""

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        index: BlobIndex,
        ttl_seconds: float | None,
        lease_seconds: float,
        limits: StorageLimits | None = None,
    ) -> None:
        """
        Args:
            database: the database of the chats.
            blobs: the store of their bytes.
            index: the table of stored blobs.
            ttl_seconds: a chat expires so many seconds after its last change; `None` means never.
            lease_seconds: duration of a lease that is not renewed.
            limits: the most that one owner may store.
        """
        self._database = database
        self._index = index
        self._rows = ChatRows(database, ttl_seconds, limits or StorageLimits())
        self._ttl = ttl_seconds
        self.blobs = blobs
        self.turns = TurnStore(database, blobs, index, self._rows, lease_seconds)

    async def add(
        self, owner: str, defaults: ChatDefaults, expected_bytes: int = 0, chat_id: str | None = None
    ) -> Chat:
        """Add an empty chat.

        Args:
            owner: owner of the chat.
            defaults: apply to all its turns.
            expected_bytes: known bytes of the first turn, which is saved later.
            chat_id: id of the chat. If the owner has it already, nothing is added.

        Raises:
            ChatLimitReached: with this chat the owner would exceed a limit.
        """
        chat = Chat(chat_id or _new_id(), owner, defaults)

        def transaction(connection: Connection) -> Chat:
            if chat_id is not None:
                with suppress(ChatNotFound):
                    return self._rows.find(connection, chat_id, owner)
            return self._rows.insert(connection, chat, expected_bytes=expected_bytes)

        return await self._database.write(transaction)

    async def get(self, chat_id: str, owner: str) -> Chat:
        """Return the chat with all its turns.

        Raises:
            ChatNotFound: the owner has no chat with this id.
        """

        def transaction(connection: Connection) -> Chat:
            chat = self._rows.find(connection, chat_id, owner, full_instruction=True)
            return replace(chat, turns=select_turns(connection, self.blobs, chat_id))

        return await self._database.read(transaction)

    async def outline(self, chat_id: str, owner: str) -> tuple[Chat, list[tuple[int, int]]]:
        """Return the chat without its turns, and for each turn its number and its document's length in characters.

        Raises:
            ChatNotFound: the owner has no chat with this id.
        """

        def transaction(connection: Connection) -> tuple[Chat, list[tuple[int, int]]]:
            chat = self._rows.find(connection, chat_id, owner, full_instruction=True)
            sizes = select(turns.c.number, func.length(DOCUMENT)).where(turns.c.chat_id == chat_id)
            rows = connection.execute(sizes.order_by(turns.c.number)).all()
            return chat, [(number, size) for number, size in rows]

        return await self._database.read(transaction)

    async def page(self, owner: str, limit: int, after: tuple[float, str] | None) -> list[Chat]:
        """Return one page of the owner's chats, latest change first.

        The chats are without their turns, and with an excerpt of a long system instruction.

        Args:
            owner: owner of the chats.
            limit: most chats on the page.
            after: `updated_at` and id of the last chat of the page before; `None` for the first page.
        """
        condition: ColumnElement[bool] = true()
        if after is not None:
            updated_at, id_ = after
            same_time = and_(chats.c.updated_at == updated_at, chats.c.id < id_)
            condition = or_(chats.c.updated_at < updated_at, same_time)

        def transaction(connection: Connection) -> list[Chat]:
            rows = connection.execute(
                select(*chats.c, self._rows.in_progress)
                .where(chats.c.owner == owner, self._rows.alive, condition)
                .order_by(chats.c.updated_at.desc(), chats.c.id.desc())
                .limit(limit)
            )
            return [load_chat(row) for row in rows]

        return await self._database.read(transaction)

    async def fork(self, chat_id: str, owner: str, from_turn: int | None) -> Chat:
        """Add a chat that starts with the turns of another one, and return it without its turns.

        Args:
            chat_id: id of the chat to fork.
            owner: owner of both chats.
            from_turn: number of the last turn to copy; `None` copies all turns.

        Raises:
            ChatNotFound: the owner has no chat with this id.
            InvalidRequest: the chat has fewer turns than `from_turn`.
            ChatLimitReached: with this chat the owner would exceed a limit.
        """
        new_id = _new_id()

        def transaction(connection: Connection) -> Chat:
            chat, _ = self._rows.lock(connection, chat_id, owner, full_instruction=True)
            last = chat.last_turn if from_turn is None else from_turn
            if last > chat.last_turn:
                raise InvalidRequest([FieldError("fromTurn", f"the chat has {chat.last_turn} turns")])
            size = select(func.sum(turns.c.bytes)).where(turns.c.chat_id == chat_id, turns.c.number <= last)
            title = chat.title if last else None
            fork = self._rows.insert(
                connection,
                Chat(new_id, owner, chat.defaults, last, title=title, forked_from=chat.id, forked_at=last),
                turn_bytes=int(connection.execute(size).scalar() or 0),
            )
            move_long_documents(connection, self._database, chat_id)
            copy_turns(connection, chat_id, new_id, last)
            return fork

        return await self._database.write(transaction)

    async def remove(self, chat_id: str, owner: str) -> None:
        """Delete a chat. A later `cleanup` deletes its blobs, unless another chat refers to them.

        Raises:
            ChatNotFound: the owner has no chat with this id.
            TurnInProgress: the chat is leased.
        """

        def transaction(connection: Connection) -> None:
            _, seconds_left = self._rows.lock(connection, chat_id, owner)
            require_unleased(seconds_left)
            connection.execute(delete(chats).where(chats.c.id == chat_id))

        await self._database.write(transaction)

    async def cleanup(self) -> CleanupResult:
        """Delete expired chats, unreferenced texts and blobs, and partial files."""
        expired = await self._delete_expired()
        await texts.cleanup(self._database)
        return CleanupResult(expired, await self._index.cleanup(), await self.blobs.remove_partial_files())

    async def _delete_expired(self) -> int:
        if self._ttl is None:
            return 0
        alive, unleased = self._rows.alive, self._rows.unleased
        expired = select(chats.c.id).where(~alive, unleased).limit(_BATCH)

        def transaction(connection: Connection) -> int:
            # PostgreSQL checks the conditions again after it has waited for another transaction's lock on the row.
            condition = chats.c.id.in_(expired), ~alive, unleased
            return len(connection.execute(delete(chats).where(*condition).returning(chats.c.id)).all())

        deleted = 0
        while batch := await self._database.write(transaction):
            deleted += batch
        return deleted


def _new_id() -> str:
    return f"chat_{secrets.token_hex(16)}"
