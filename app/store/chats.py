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

from sqlalchemy import ColumnElement, and_, case, delete, func, insert, literal, or_, select, true, update
from sqlalchemy.engine import Connection

from app.domain.chat import Chat, ChatDefaults, Turn
from app.domain.errors import (
    ChatLimitReached,
    ChatNotFound,
    FieldError,
    InvalidRequest,
    LeaseLost,
    StaleTurn,
    TurnInProgress,
)
from app.lib.base64_json import Content
from app.store import serialization, texts
from app.store.blob_index import KEEP_SECONDS, BlobIndex
from app.store.blobs import BlobStore
from app.store.database import Database
from app.store.errors import as_storage_errors
from app.store.tables import chats, turn_blobs, turns
from app.store.tables import texts as texts_table

_BATCH = 100
_TITLE_CHARS = 80

EXCERPT_CHARS = 200
"""How much of a system instruction lists of chats have. A longer one is kept in `texts`."""

_INSTRUCTION = (
    select(texts_table.c.text)
    .where(texts_table.c.digest == chats.c.instruction_digest)
    .scalar_subquery()
    .label("instruction")
)
"""The chat's long system instruction, as a JSON string."""

_DOCUMENT = case(
    (turns.c.document_digest.is_(None), turns.c.document),
    else_=select(texts_table.c.text).where(texts_table.c.digest == turns.c.document_digest).scalar_subquery(),
).label("document")
_TURN = (turns.c.number, turns.c.state, turns.c.created_at, turns.c.replaced_by, turns.c.copied, _DOCUMENT)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one owner may keep; 0 is no limit."""

    chats: int = 0
    bytes: int = 0
    """Of documents and files together, as if chats shared nothing."""


@dataclass(frozen=True, slots=True)
class CleanupResult:
    chats: int = 0
    blobs: int = 0
    unfinished: int = 0


class ChatStore:
    """Everything but `sweep` and `renew` is about one owner's chats; another's are as good as not there."""

    def __init__(
        self,
        database: Database,
        files: BlobStore,
        ttl_seconds: float | None,
        lease_seconds: float,
        limits: Limits | None = None,
    ) -> None:
        """
        Args:
            database: for rows.
            files: for bytes.
            ttl_seconds: how long after its last change a chat is there; `None` is for ever.
            lease_seconds: how long a turn in progress keeps others away, unless its lease is renewed.
            limits: what one owner may keep.
        """
        self.files = files
        self._ledger = BlobIndex(database, files)
        self._database = database
        self._ttl = ttl_seconds
        self._lease_seconds = lease_seconds
        self._limits = limits or Limits()

    async def add(self, owner: str, defaults: ChatDefaults, expected_bytes: int = 0) -> Chat:
        """Begin a chat.

        Args:
            owner: whose.
            defaults: what applies to all turns.
            expected_bytes: how much its first turn will keep, as far as that is known.

        Raises:
            ChatLimitReached: the owner keeps as much as they may.
        """
        id_ = f"chat_{secrets.token_hex(16)}"

        def work(connection: Connection) -> Chat:
            return self._begun(connection, Chat(id_, owner, defaults), expected_bytes=expected_bytes)

        return await self._database.write(work)

    async def get(self, chat_id: str, owner: str) -> Chat:
        """The chat with all its turns.

        Raises:
            ChatNotFound: the owner has none by that id.
        """

        def work(connection: Connection) -> Chat:
            return self._with_turns(connection, self._found(connection, chat_id, owner, whole=True))

        return await self._database.read(work)

    async def outline(self, chat_id: str, owner: str) -> tuple[Chat, list[tuple[int, int]]]:
        """The chat without its turns, and of each turn its number and how many characters its document has.

        Raises:
            ChatNotFound: the owner has none by that id.
        """

        def work(connection: Connection) -> tuple[Chat, list[tuple[int, int]]]:
            chat = self._found(connection, chat_id, owner, whole=True)
            sizes = select(turns.c.number, func.length(_DOCUMENT)).where(turns.c.chat_id == chat_id)
            found = connection.execute(sizes.order_by(turns.c.number)).all()
            return chat, [(number, size) for number, size in found]

        return await self._database.read(work)

    async def turns(self, chat_id: str, owner: str, first: int, last: int) -> list[Turn]:
        """The turns from number `first` to number `last`.

        Raises:
            ChatNotFound: the owner has none by that id.
        """

        def work(connection: Connection) -> list[Turn]:
            self._found(connection, chat_id, owner)
            wanted = turns.c.chat_id == chat_id, turns.c.number.between(first, last)
            rows = connection.execute(select(*_TURN).where(*wanted).order_by(turns.c.number))
            return [serialization.load_turn(row, self.files.blob) for row in rows]

        return await self._database.read(work)

    async def turn(self, chat_id: str, owner: str, number: int) -> Turn | None:
        """One turn, if there is one by that number.

        Raises:
            ChatNotFound: the owner has none by that id.
        """

        def work(connection: Connection) -> Turn | None:
            self._found(connection, chat_id, owner)
            rows = connection.execute(select(*_TURN).where(turns.c.chat_id == chat_id, turns.c.number == number))
            row = rows.one_or_none()
            return serialization.load_turn(row, self.files.blob) if row else None

        return await self._database.read(work)

    async def page(self, owner: str, limit: int, after: tuple[float, str] | None) -> list[Chat]:
        """The owner's chats without their turns, the last changed first, from the one behind `after` (when it was
        changed, and its id). Of a long system instruction they have an excerpt."""
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
        """Begin a chat with the turns of another one up to `from_turn`; with all of them, if that is `None`. The answer
        is without them.

        Raises:
            ChatNotFound: the owner has none by that id.
            InvalidRequest: it has not come that far.
            ChatLimitReached: the owner keeps as much as they may.
        """
        new_id = f"chat_{secrets.token_hex(16)}"

        def work(connection: Connection) -> Chat:
            chat, _ = self._locked(connection, chat_id, owner, whole=True)
            last = chat.last_turn if from_turn is None else from_turn
            if last > chat.last_turn:
                raise InvalidRequest([FieldError("fromTurn", f"the chat has {chat.last_turn} turns")])
            title = chat.title if last else None
            copied = turns.c.chat_id == chat_id, turns.c.number <= last
            made = self._begun(
                connection,
                Chat(new_id, owner, chat.defaults, last, title=title, forked_from=chat.id, forked_at=last),
                turn_bytes=int(connection.execute(select(func.sum(turns.c.bytes)).where(*copied)).scalar() or 0),
            )
            self._make_shared(connection, chat_id)
            # What came to replace a turn may not have come along.
            replaced = case((turns.c.replaced_by <= last, turns.c.replaced_by))
            same = ["number", "state", "created_at", "document", "document_digest", "bytes"]
            old = select(literal(new_id), replaced, true(), *(turns.c[name] for name in same)).where(*copied)
            connection.execute(insert(turns).from_select(["chat_id", "replaced_by", "copied", *same], old))
            referred = turn_blobs.c.chat_id == chat_id, turn_blobs.c.number <= last
            links = select(literal(new_id), turn_blobs.c.number, turn_blobs.c.digest).where(*referred)
            connection.execute(insert(turn_blobs).from_select(["chat_id", "number", "digest"], links))
            return made

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

    async def lease(
        self,
        chat_id: str,
        owner: str,
        holder: str,
        expected_last_turns: Collection[int] | None = None,
        expected_bytes: int = 0,
    ) -> Chat:
        """Keep others from adding turns, until `keep`, `release`, or a while after the last `renew`.

        Args:
            chat_id: which chat.
            owner: whose.
            holder: a name for whoever asks, never used twice.
            expected_last_turns: numbers that the latest turn may have; `None` allows any. Turns without an image at
                the end of the chat do not count, so the last turn with an image is accepted, and any after it.
            expected_bytes: how much the turn will keep, as far as that is known.

        Returns:
            The chat with all its turns.

        Raises:
            ChatNotFound: the owner has none by that id.
            TurnInProgress: somebody else has the lease.
            StaleTurn: the chat has gone on.
            ChatLimitReached: the owner keeps as much as they may.
        """

        def work(connection: Connection) -> Chat:
            chat, left = self._locked(connection, chat_id, owner, whole=True)
            if left:
                raise _in_progress(left)
            chat = self._with_turns(connection, chat)
            if expected_last_turns is not None and not any(
                chat.last_image_turn <= one <= chat.last_turn for one in expected_last_turns
            ):
                raise StaleTurn(f"The latest turn of this chat is {chat.last_turn}.", last_turn=chat.last_turn)
            self._require_within_limits(connection, owner, more_chats=0, more_bytes=expected_bytes)
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

    async def save_turn(self, chat: Chat, holder: str, turn: Turn, replaces: int | None) -> None:
        """Add a turn, and give the lease back.

        Args:
            chat: as it was when the lease was taken.
            holder: who has the lease.
            turn: the next one.
            replaces: the turn that it stands in for.

        Raises:
            LeaseLost: the lease ran out and somebody else took it. Nothing is kept.
        """
        with as_storage_errors("blobs"):
            async with asyncio.timeout(KEEP_SECONDS):
                stored = await self._ledger.stored(_contents(turn))
        document = serialization.text_of(
            serialization.dump_turn(turn, lambda content: (stored[id(content)].name, len(content)))
        )
        sizes = {one.digest: len(one) for one in stored.values()}
        size = len(document) + sum(sizes.values())

        def work(connection: Connection) -> None:
            changed: dict[str, Any] = {}
            if chat.title is None:
                changed = self._written(connection, replace(chat, title=_title(turn.prompt)))
            kept = connection.execute(
                update(chats)
                .where(chats.c.id == chat.id, chats.c.lease_holder == holder)
                .values(
                    last_turn=turn.number,
                    updated_at=self._database.now,
                    cost_usd=chats.c.cost_usd + ((turn.usage and turn.usage.estimated_cost_usd) or 0.0),
                    bytes=chats.c.bytes + size,
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
                    bytes=size,
                    **self._turn_document(connection, document),
                )
            )
            if sizes:
                links = [{"chat_id": chat.id, "number": turn.number, "digest": digest} for digest in sorted(sizes)]
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
        rows = connection.execute(select(_DOCUMENT).where(turns.c.chat_id == chat_id, turns.c.number == turn.number))
        document = rows.scalar_one_or_none()
        if document is not None and turn.generation_id == json.loads(document)["generation_id"] is not None:
            return
        raise LeaseLost("The chat has gone on, or is gone: this turn took too long and is not kept.")

    async def cleanup(self) -> CleanupResult:
        """Remove chats that have expired and bytes that nobody refers to."""
        chats_swept = await self._sweep_chats()
        await texts.sweep(self._database)
        return CleanupResult(chats_swept, await self._ledger.sweep(), await self.files.remove_partial_files())

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

    def _begun(self, connection: Connection, chat: Chat, *, turn_bytes: int = 0, expected_bytes: int = 0) -> Chat:
        """Add the row of a chat.

        Args:
            connection: of the transaction.
            chat: what to add.
            turn_bytes: how much the turns keep that it begins with.
            expected_bytes: how much its first turn will keep, as far as that is known.

        Raises:
            ChatLimitReached: its owner keeps as much as they may.
        """
        size = _chat_bytes(chat) + turn_bytes
        self._require_within_limits(connection, chat.owner, more_chats=1, more_bytes=size + expected_bytes)
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
                **self._written(connection, chat),
            )
            .returning(chats.c.created_at, chats.c.updated_at)
        )
        row = rows.one()
        return replace(chat, created_at=row.created_at, updated_at=row.updated_at)

    def _written(self, connection: Connection, chat: Chat) -> dict[str, Any]:
        """The columns that hold the chat's document."""
        instruction = chat.defaults.system_instruction
        if instruction is None or len(instruction) <= EXCERPT_CHARS:
            return {"document": serialization.text_of(_document(chat)), "instruction_digest": None}
        document = _document(chat)
        document["defaults"]["system_instruction"] = {"excerpt": serialization.excerpt(instruction, EXCERPT_CHARS)}
        digest = texts.store(connection, self._database, json.dumps(instruction))
        return {"document": serialization.text_of(document), "instruction_digest": digest}

    def _turn_document(self, connection: Connection, document: str) -> dict[str, Any]:
        """The columns that hold a turn's document."""
        if len(document) <= texts.INLINE_CHARS:
            return {"document": document, "document_digest": None}
        return {"document": "", "document_digest": texts.store(connection, self._database, document)}

    def _make_shared(self, connection: Connection, chat_id: str) -> None:
        """Move long documents of turns to `texts`. The version of the service before migration 0002 did not."""
        long = select(turns.c.number).where(
            turns.c.chat_id == chat_id,
            turns.c.document_digest.is_(None),
            func.length(turns.c.document) > texts.INLINE_CHARS,
        )
        for number in connection.execute(long).scalars().all():
            this = turns.c.chat_id == chat_id, turns.c.number == number
            document = connection.execute(select(turns.c.document).where(*this)).scalar_one()
            connection.execute(update(turns).where(*this).values(self._turn_document(connection, document)))

    def _require_within_limits(self, connection: Connection, owner: str, *, more_chats: int, more_bytes: int) -> None:
        """
        Raises:
            ChatLimitReached: with that much more the owner would keep more than they may.
        """
        limits = self._limits
        if not limits.bytes and not (limits.chats and more_chats):
            return
        if more_chats and not self._database.is_sqlite:  # SQLite has one writer at a time anyway
            connection.execute(select(func.pg_advisory_xact_lock(func.hashtext(owner))))
        kept = select(func.count(), func.coalesce(func.sum(chats.c.bytes), 0)).where(
            chats.c.owner == owner, self._alive
        )
        count, size = connection.execute(kept).one()
        if limits.chats and more_chats and count + more_chats > limits.chats:
            raise ChatLimitReached(
                f"You keep {count:,} chats, and {limits.chats:,} are the most. Delete chats that you no longer need.",
                limit="chats",
                most=limits.chats,
            )
        if limits.bytes and int(size) + more_bytes > limits.bytes:
            raise ChatLimitReached(
                f"Your chats keep {int(size):,} bytes, this needs {more_bytes:,} more, and {limits.bytes:,} are the "
                "most. Delete chats that you no longer need.",
                limit="bytes",
                most=limits.bytes,
            )

    @property
    def _alive(self) -> ColumnElement[bool]:
        return true() if self._ttl is None else chats.c.updated_at > self._database.now - self._ttl

    @property
    def _free(self) -> ColumnElement[bool]:
        return or_(chats.c.lease_until.is_(None), chats.c.lease_until < self._database.now)

    @property
    def _in_progress(self) -> ColumnElement[bool]:
        return (~self._free).label("in_progress")

    def _found(self, connection: Connection, chat_id: str, owner: str, *, whole: bool = False) -> Chat:
        return self._locked(connection, chat_id, owner, lock=False, whole=whole)[0]

    def _locked(
        self, connection: Connection, chat_id: str, owner: str, *, lock: bool = True, whole: bool = False
    ) -> tuple[Chat, float]:
        """The chat, and for how many seconds it is leased; it stays as it is until the transaction ends.

        Args:
            connection: of the transaction.
            chat_id: which chat.
            owner: whose.
            lock: whether it has to stay as it is.
            whole: whether to read a long system instruction; else there is an excerpt of it.

        Raises:
            ChatNotFound: the owner has none by that id.
        """
        left = case((self._free, 0.0), else_=chats.c.lease_until - self._database.now).label("left")
        instruction = (_INSTRUCTION,) if whole else ()
        query = select(*chats.c, self._in_progress, left, *instruction).where(
            chats.c.id == chat_id, chats.c.owner == owner, self._alive
        )
        row = connection.execute(query.with_for_update() if lock else query).one_or_none()
        if row is None:
            raise ChatNotFound("There is no such chat, or it has expired.")
        return _chat(row, whole=whole), row.left

    def _with_turns(self, connection: Connection, chat: Chat) -> Chat:
        rows = connection.execute(select(*_TURN).where(turns.c.chat_id == chat.id).order_by(turns.c.number))
        return replace(chat, turns=tuple(serialization.load_turn(row, self.files.blob) for row in rows))


def _in_progress(seconds: float) -> TurnInProgress:
    return TurnInProgress("Another turn of this chat is being made.", retry_after=max(1, ceil(seconds)))


@serialization.raises_storage_damaged
def _chat(row: Any, *, whole: bool = False) -> Chat:
    """The chat of a row; unless it is wanted `whole`, with an excerpt of a long system instruction."""
    document: dict[str, Any] = json.loads(row.document)
    defaults = document["defaults"]
    if row.instruction_digest is not None:
        instruction = json.loads(row.instruction) if whole else defaults["system_instruction"]["excerpt"]
        defaults = defaults | {"system_instruction": instruction}
    elif not whole and defaults.get("system_instruction"):
        defaults = defaults | {
            "system_instruction": serialization.excerpt(defaults["system_instruction"], EXCERPT_CHARS)
        }
    return Chat(
        id=row.id,
        owner=row.owner,
        defaults=serialization.defaults_read(defaults),
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
        "defaults": serialization.defaults_written(chat.defaults),
        "title": chat.title,
        "forkedFrom": chat.forked_from,
        "forkedAt": chat.forked_at,
    }


def _chat_bytes(chat: Chat) -> int:
    return len(serialization.text_of(_document(chat)))


def _title(prompt: str) -> str:
    line = " ".join(prompt[: 4 * _TITLE_CHARS].split())
    return line if len(line) <= _TITLE_CHARS else f"{line[: _TITLE_CHARS - 1]}…"


def _contents(turn: Turn) -> list[Content]:
    parts = [one for part in (*turn.user, *turn.answer) for one in part.contents]
    images = [reference.image.content for reference in turn.references]
    return [*parts, *images, *([turn.image.content] if turn.image else [])]
