"""Chats as they are kept: a few verbs, each of which happens as a whole or not at all.

A turn's bytes are durable before the row that names them: a crash in between leaves files that nobody names, and
`sweep` finds them by the `blobs` table, where each has its row before it is written.
"""

import asyncio
import json
import secrets
from collections.abc import Collection
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

from sqlalchemy import ColumnElement, and_, case, delete, insert, literal, or_, select, true, update
from sqlalchemy.engine import Connection

from app.conversation import Chat, ChatDefaults, Turn
from app.errors import ChatNotFound, FieldError, InvalidRequest, StaleTurn, TurnInProgress, TurnLost
from app.lifting import Content
from app.store import documents
from app.store.blobs import Blobs
from app.store.database import Database
from app.store.failures import as_storage_errors
from app.store.ledger import KEEP_SECONDS, Ledger
from app.store.tables import chats, turn_blobs, turns

_BATCH = 100
_TITLE_CHARS = 80


@dataclass(frozen=True, slots=True)
class Swept:
    chats: int = 0
    blobs: int = 0
    unfinished: int = 0


class ChatStore:
    """Everything but `sweep` and `renew` is about one owner's chats; another's are as good as not there."""

    def __init__(self, database: Database, files: Blobs, ttl_seconds: float | None, lease_seconds: float) -> None:
        """
        Args:
            database: for rows.
            files: for bytes.
            ttl_seconds: how long after its last change a chat is there; `None` is for ever.
            lease_seconds: how long a turn in progress keeps others away, unless its lease is renewed.
        """
        self.files = files
        self._ledger = Ledger(database, files)
        self._database = database
        self._ttl = ttl_seconds
        self._lease_seconds = lease_seconds

    async def add(self, owner: str, defaults: ChatDefaults) -> Chat:
        """Begin a chat."""
        id_ = f"chat_{secrets.token_hex(16)}"

        def work(connection: Connection) -> Chat:
            return self._begun(connection, Chat(id_, owner, defaults))

        return await self._database.write(work)

    async def get(self, chat_id: str, owner: str) -> Chat:
        """The chat with all its turns.

        Raises:
            ChatNotFound: the owner has none by that id.
        """

        def work(connection: Connection) -> Chat:
            return self._with_turns(connection, self._found(connection, chat_id, owner))

        return await self._database.read(work)

    async def turn(self, chat_id: str, owner: str, number: int) -> Turn | None:
        """One turn, if there is one by that number.

        Raises:
            ChatNotFound: the owner has none by that id.
        """

        def work(connection: Connection) -> Turn | None:
            self._found(connection, chat_id, owner)
            rows = connection.execute(select(turns).where(turns.c.chat_id == chat_id, turns.c.number == number))
            row = rows.one_or_none()
            return documents.turn_read(row, self.files.blob) if row else None

        return await self._database.read(work)

    async def page(self, owner: str, limit: int, after: tuple[float, str] | None) -> list[Chat]:
        """The owner's chats without their turns, the last changed first, from the one behind `after` (when it was
        changed, and its id)."""
        condition: ColumnElement[bool] = true()
        if after is not None:
            updated_at, id_ = after
            same_time = and_(chats.c.updated_at == updated_at, chats.c.id < id_)
            condition = or_(chats.c.updated_at < updated_at, same_time)

        def work(connection: Connection) -> list[Chat]:
            rows = connection.execute(
                select(*chats.c, self._in_progress)
                .where(chats.c.owner == owner, self._alive, condition)
                .order_by(chats.c.updated_at.desc(), chats.c.id.desc())
                .limit(limit)
            )
            return [_chat(row) for row in rows]

        return await self._database.read(work)

    async def fork(self, chat_id: str, owner: str, from_turn: int | None) -> Chat:
        """Begin a chat with the turns of another one up to `from_turn`; with all of them, if that is `None`.

        Raises:
            ChatNotFound: the owner has none by that id.
            InvalidRequest: it has not come that far.
        """
        new_id = f"chat_{secrets.token_hex(16)}"

        def work(connection: Connection) -> Chat:
            chat, _ = self._locked(connection, chat_id, owner)
            last = chat.last_turn if from_turn is None else from_turn
            if last > chat.last_turn:
                raise InvalidRequest([FieldError("fromTurn", f"the chat has {chat.last_turn} turns")])
            title = chat.title if last else None
            made = self._begun(
                connection,
                Chat(new_id, owner, chat.defaults, last, title=title, forked_from=chat.id, forked_at=last),
            )
            copied = turns.c.chat_id == chat_id, turns.c.number <= last
            # What came to replace a turn may not have come along.
            replaced = case((turns.c.replaced_by <= last, turns.c.replaced_by))
            columns = ["chat_id", "number", "state", "created_at", "replaced_by", "copied", "document"]
            old = select(
                literal(new_id), turns.c.number, turns.c.state, turns.c.created_at, replaced, true(), turns.c.document
            ).where(*copied)
            connection.execute(insert(turns).from_select(columns, old))
            referred = turn_blobs.c.chat_id == chat_id, turn_blobs.c.number <= last
            links = select(literal(new_id), turn_blobs.c.number, turn_blobs.c.digest).where(*referred)
            connection.execute(insert(turn_blobs).from_select(["chat_id", "number", "digest"], links))
            return self._with_turns(connection, made)

        return await self._database.write(work)

    async def remove(self, chat_id: str, owner: str) -> None:
        """Forget a chat. Its bytes go with the next sweeps, unless another chat has them too.

        Raises:
            ChatNotFound: the owner has none by that id.
            TurnInProgress: a turn of it is being made.
        """

        def work(connection: Connection) -> None:
            _, left = self._locked(connection, chat_id, owner)
            if left:
                raise _in_progress(left)
            connection.execute(delete(chats).where(chats.c.id == chat_id))

        await self._database.write(work)

    async def lease(self, chat_id: str, owner: str, holder: str, latest_in: Collection[int] | None = None) -> Chat:
        """Keep others from adding turns, until `keep`, `release`, or a while after the last `renew`.

        Args:
            chat_id: which chat.
            owner: whose.
            holder: a name for whoever asks, never used twice.
            latest_in: the latest turn has to be among these; `None` is any. Turns without an image have changed
                nothing: with such ones at the end, the last one that counts will do, and any behind it.

        Returns:
            The chat with all its turns.

        Raises:
            ChatNotFound: the owner has none by that id.
            TurnInProgress: somebody else has the lease.
            StaleTurn: the chat has gone on.
        """

        def work(connection: Connection) -> Chat:
            chat, left = self._locked(connection, chat_id, owner)
            if left:
                raise _in_progress(left)
            chat = self._with_turns(connection, chat)
            if latest_in is not None and not any(chat.last_that_counts <= one <= chat.last_turn for one in latest_in):
                raise StaleTurn(f"The latest turn of this chat is {chat.last_turn}.", last_turn=chat.last_turn)
            connection.execute(
                update(chats)
                .where(chats.c.id == chat_id)
                .values(lease_holder=holder, lease_until=self._database.now + self._lease_seconds)
            )
            return chat

        return await self._database.write(work)

    async def renew(self, holders: Collection[str]) -> None:
        """Lengthen leases; one that somebody else has taken over is left to them."""

        def work(connection: Connection) -> None:
            connection.execute(
                update(chats)
                .where(chats.c.lease_holder.in_(holders))
                .values(lease_until=self._database.now + self._lease_seconds)
            )

        await self._database.write(work)

    async def release(self, holder: str) -> None:
        def work(connection: Connection) -> None:
            connection.execute(
                update(chats).where(chats.c.lease_holder == holder).values(lease_holder=None, lease_until=None)
            )

        await self._database.write(work)

    async def keep(self, chat: Chat, holder: str, turn: Turn, replaces: int | None) -> None:
        """Add a turn, and give the lease back.

        Args:
            chat: as it was when the lease was taken.
            holder: who has the lease.
            turn: the next one.
            replaces: the turn that it stands in for.

        Raises:
            TurnLost: the lease ran out and somebody else took it. Nothing is kept.
        """
        with as_storage_errors("blobs"):
            async with asyncio.timeout(KEEP_SECONDS):
                stored = await self._ledger.stored(_contents(turn))
        written = documents.turn_written(turn, lambda content: (stored[id(content)].name, len(content)))
        digests = {one.digest for one in stored.values()}
        changed: dict[str, Any] = {}
        if chat.title is None:
            changed["document"] = documents.text_of(_document(chat) | {"title": _title(turn.prompt)})

        def work(connection: Connection) -> None:
            kept = connection.execute(
                update(chats)
                .where(chats.c.id == chat.id, chats.c.lease_holder == holder)
                .values(
                    last_turn=turn.number,
                    updated_at=self._database.now,
                    cost_usd=chats.c.cost_usd + ((turn.usage and turn.usage.estimated_cost_usd) or 0.0),
                    lease_holder=None,
                    lease_until=None,
                    **changed,
                )
                .returning(chats.c.updated_at)
            )
            now = kept.scalar_one_or_none()
            if now is None:
                self._require_kept(connection, chat.id, turn)
                return
            connection.execute(
                insert(turns).values(
                    chat_id=chat.id,
                    number=turn.number,
                    state=turn.state,
                    created_at=now,
                    document=documents.text_of(written),
                )
            )
            if digests:
                links = [{"chat_id": chat.id, "number": turn.number, "digest": digest} for digest in sorted(digests)]
                connection.execute(insert(turn_blobs), links)
            if replaces is not None:
                connection.execute(
                    update(turns)
                    .where(turns.c.chat_id == chat.id, turns.c.number == replaces)
                    .values(replaced_by=turn.number)
                )

        await self._database.write(work)

    def _require_kept(self, connection: Connection, chat_id: str, turn: Turn) -> None:
        """Where a connection breaks while a transaction ends, only the next one can tell what became of it."""
        rows = connection.execute(
            select(turns.c.document).where(turns.c.chat_id == chat_id, turns.c.number == turn.number)
        )
        document = rows.scalar_one_or_none()
        if document is not None and turn.generation_id == json.loads(document)["generation_id"] is not None:
            return
        raise TurnLost("The chat has gone on, or is gone: this turn took too long and is not kept.")

    async def sweep(self) -> Swept:
        """Remove chats that have expired and bytes that nobody refers to."""
        return Swept(await self._sweep_chats(), await self._ledger.sweep(), await self.files.tidy())

    async def _sweep_chats(self) -> int:
        if self._ttl is None:
            return 0
        expired = select(chats.c.id).where(~self._alive, self._free).limit(_BATCH)

        def work(connection: Connection) -> int:
            condition = chats.c.id.in_(expired), ~self._alive, self._free  # as it is when its turn has come
            return len(connection.execute(delete(chats).where(*condition).returning(chats.c.id)).all())

        removed = 0
        while batch := await self._database.write(work):
            removed += batch
        return removed

    def _begun(self, connection: Connection, chat: Chat) -> Chat:
        rows = connection.execute(
            insert(chats)
            .values(
                id=chat.id,
                owner=chat.owner,
                created_at=self._database.now,
                updated_at=self._database.now,
                last_turn=chat.last_turn,
                cost_usd=0.0,
                document=documents.text_of(_document(chat)),
            )
            .returning(*chats.c, literal(False).label("in_progress"))
        )
        return _chat(rows.one())

    @property
    def _alive(self) -> ColumnElement[bool]:
        return true() if self._ttl is None else chats.c.updated_at > self._database.now - self._ttl

    @property
    def _free(self) -> ColumnElement[bool]:
        return or_(chats.c.lease_until.is_(None), chats.c.lease_until < self._database.now)

    @property
    def _in_progress(self) -> ColumnElement[bool]:
        return (~self._free).label("in_progress")

    def _found(self, connection: Connection, chat_id: str, owner: str) -> Chat:
        return self._locked(connection, chat_id, owner, lock=False)[0]

    def _locked(self, connection: Connection, chat_id: str, owner: str, *, lock: bool = True) -> tuple[Chat, float]:
        """The chat, and for how many seconds it is leased; it stays as it is until the transaction ends.

        Raises:
            ChatNotFound: the owner has none by that id.
        """
        left = case((self._free, 0.0), else_=chats.c.lease_until - self._database.now).label("left")
        query = select(*chats.c, self._in_progress, left).where(
            chats.c.id == chat_id, chats.c.owner == owner, self._alive
        )
        row = connection.execute(query.with_for_update() if lock else query).one_or_none()
        if row is None:
            raise ChatNotFound("There is no such chat, or it has expired.")
        return _chat(row), row.left

    def _with_turns(self, connection: Connection, chat: Chat) -> Chat:
        rows = connection.execute(select(turns).where(turns.c.chat_id == chat.id).order_by(turns.c.number))
        return replace(chat, turns=tuple(documents.turn_read(row, self.files.blob) for row in rows))


def _in_progress(seconds: float) -> TurnInProgress:
    return TurnInProgress("Another turn of this chat is being made.", retry_after=max(1, ceil(seconds)))


@documents.damage_told
def _chat(row: Any) -> Chat:
    document: dict[str, Any] = json.loads(row.document)
    return Chat(
        id=row.id,
        owner=row.owner,
        defaults=documents.defaults_read(document["defaults"]),
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
        "defaults": documents.defaults_written(chat.defaults),
        "title": chat.title,
        "forkedFrom": chat.forked_from,
        "forkedAt": chat.forked_at,
    }


def _title(prompt: str) -> str:
    line = " ".join(prompt[: 4 * _TITLE_CHARS].split())
    return line if len(line) <= _TITLE_CHARS else f"{line[: _TITLE_CHARS - 1]}…"


def _contents(turn: Turn) -> list[Content]:
    parts = [one for part in (*turn.user, *turn.answer) for one in part.contents]
    images = [reference.image.content for reference in turn.references]
    return [*parts, *images, *([turn.image.content] if turn.image else [])]
