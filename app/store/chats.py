"""Chats as they are kept: a few verbs, each of which happens as a whole or not at all.

A turn's bytes are durable before the row that names them: a crash in between leaves files that nobody names, and
`sweep` finds them by the `blobs` table, where each has its row before it is written.
"""

import asyncio
import json
import secrets
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

from sqlalchemy import ColumnElement, and_, case, delete, exists, insert, literal, or_, select, true, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from app.conversation import Chat, ChatDefaults, Turn
from app.errors import ChatNotFound, FieldError, InvalidRequest, StaleTurn, TurnInProgress
from app.lifting import Content
from app.store import documents
from app.store.blobs import Blob, Blobs, digest_of
from app.store.database import Database
from app.store.tables import blobs, chats, turn_blobs, turns

GARBAGE_SECONDS = 600
"""How long bytes that nobody refers to are left alone: somebody may be about to. Keeping takes a minute at most."""

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

    async def fork(self, chat_id: str, owner: str, after_turn: int | None) -> Chat:
        """Begin a chat with the turns that another one had after `after_turn`; with all of them, if that is `None`.

        Raises:
            ChatNotFound: the owner has none by that id.
            InvalidRequest: it has not come that far.
        """
        new_id = f"chat_{secrets.token_hex(16)}"

        def work(connection: Connection) -> Chat:
            chat = self._found(connection, chat_id, owner)
            last = chat.last_turn if after_turn is None else after_turn
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
            connection.execute(
                update(blobs)
                .where(blobs.c.digest.in_(select(turn_blobs.c.digest).where(*referred)))
                .values(touched_at=self._database.now)
            )
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
            gone = connection.execute(delete(chats).where(*self._of(chat_id, owner), self._free).returning(chats.c.id))
            if gone.one_or_none() is None:
                self._in_the_way(connection, chat_id, owner)

        await self._database.write(work)

    async def lease(self, chat_id: str, owner: str, holder: str, after_turns: Collection[int] | None = None) -> Chat:
        """Keep others from adding turns, until `keep`, `release`, or a while after the last `renew`.

        Args:
            chat_id: which chat.
            owner: whose.
            holder: a name for whoever asks, never used twice.
            after_turns: the latest turn has to be one of these; `None` is any.

        Returns:
            The chat with all its turns.

        Raises:
            ChatNotFound: the owner has none by that id.
            TurnInProgress: somebody else has the lease.
            StaleTurn: the latest turn is another one.
        """
        current = true() if after_turns is None else chats.c.last_turn.in_(after_turns)

        def work(connection: Connection) -> Chat:
            leased = connection.execute(
                update(chats)
                .where(*self._of(chat_id, owner), self._free, current)
                .values(lease_holder=holder, lease_until=self._database.now + self._lease_seconds)
                .returning(*chats.c, true().label("in_progress"))
            )
            row = leased.one_or_none()
            if row is None:
                last_turn = self._in_the_way(connection, chat_id, owner)
                raise StaleTurn(f"The latest turn of this chat is {last_turn}.", last_turn=last_turn)
            return self._with_turns(connection, _chat(row))

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
            StaleTurn: the lease ran out and somebody else took it. Nothing is kept.
            ChatNotFound: the chat has expired meanwhile.
        """
        named = await self._stored(_contents(turn))
        written = documents.turn_written(turn, lambda content: named[id(content)])
        digests = {digest for digest, _ in named.values()}
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
        rows = connection.execute(select(chats.c.last_turn).where(chats.c.id == chat_id))
        last_turn = rows.scalar_one_or_none()
        if last_turn is None:
            raise ChatNotFound("The chat is gone, and this turn with it.")
        raise StaleTurn("The chat has gone on: this turn took too long and is not kept.", last_turn=last_turn)

    async def sweep(self) -> Swept:
        """Remove chats that have expired and bytes that nobody refers to."""
        swept_chats = await self._sweep_chats()
        swept_blobs = 0
        while batch := await self._sweep_blobs():
            swept_blobs += batch
        return Swept(swept_chats, swept_blobs, await self.files.tidy())

    async def _sweep_chats(self) -> int:
        if self._ttl is None:
            return 0
        expired = select(chats.c.id).where(~self._alive, self._free).limit(_BATCH)

        def work(connection: Connection) -> int:
            return len(connection.execute(delete(chats).where(chats.c.id.in_(expired)).returning(chats.c.id)).all())

        removed = 0
        while batch := await self._database.write(work):
            removed += batch
        return removed

    async def _sweep_blobs(self) -> int:
        """One batch, within a transaction: whoever sets out to refer to one of them again waits for its end, and stores
        the bytes anew."""
        unused = (
            select(blobs.c.digest)
            .where(
                blobs.c.touched_at < self._database.now - GARBAGE_SECONDS,
                ~exists().where(turn_blobs.c.digest == blobs.c.digest),
            )
            .limit(_BATCH)
            .with_for_update(skip_locked=True)
        )

        def work(connection: Connection) -> int:
            digests = list(connection.execute(unused).scalars())
            if digests:
                self.files.delete(digests)
                connection.execute(delete(blobs).where(blobs.c.digest.in_(digests)))
            return len(digests)

        return await self._database.write(work)

    async def _stored(self, contents: Iterable[Content]) -> dict[int, tuple[str, int]]:
        """Digest and size of each content, by its `id`, once all of them are durable."""
        distinct = {id(one): one for one in contents}
        named: dict[int, tuple[str, int]] = {}
        fresh: dict[str, Content] = {}
        for key, one in distinct.items():
            digest = one.digest if isinstance(one, Blob) else await digest_of(one)
            named[key] = digest, len(one)
            if not isinstance(one, Blob):
                fresh[digest] = one
        if not named:
            return named
        known = await self._announce(dict(named.values()))

        async def store(digest: str, one: Content) -> None:
            if digest not in known or not await self.files.has(digest, len(one)):
                await self.files.put(digest, one)

        await asyncio.gather(*(store(digest, one) for digest, one in fresh.items()))
        return named

    async def _announce(self, sizes: dict[str, int]) -> set[str]:
        """Write down that bytes are about to be referred to; which of them somebody has announced before."""
        dialect = sqlite if self._database.is_sqlite else postgresql
        statement = dialect.insert(blobs)
        statement = statement.on_conflict_do_update(
            index_elements=[blobs.c.digest], set_={"touched_at": self._database.now}
        )

        def work(connection: Connection) -> set[str]:
            found = connection.execute(select(blobs.c.digest).where(blobs.c.digest.in_(sizes)))
            known = set(found.scalars())
            rows = [
                {"digest": digest, "bytes": size, "touched_at": self._database.now}
                for digest, size in sorted(sizes.items())  # in one order, or two of us wait for each other
            ]
            connection.execute(statement.values(rows))
            return known

        return await self._database.write(work)

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

    def _of(self, chat_id: str, owner: str) -> tuple[ColumnElement[bool], ...]:
        return chats.c.id == chat_id, chats.c.owner == owner, self._alive

    def _found(self, connection: Connection, chat_id: str, owner: str) -> Chat:
        rows = connection.execute(select(*chats.c, self._in_progress).where(*self._of(chat_id, owner)))
        row = rows.one_or_none()
        if row is None:
            raise ChatNotFound("There is no such chat, or it has expired.")
        return _chat(row)

    def _with_turns(self, connection: Connection, chat: Chat) -> Chat:
        rows = connection.execute(select(turns).where(turns.c.chat_id == chat.id).order_by(turns.c.number))
        return replace(chat, turns=tuple(documents.turn_read(row, self.files.blob) for row in rows))

    def _in_the_way(self, connection: Connection, chat_id: str, owner: str) -> int:
        """Say why a chat could not be had, if it is for its lease, or for its absence; else its latest turn."""
        rows = connection.execute(
            select(
                chats.c.last_turn, self._in_progress, (chats.c.lease_until - self._database.now).label("left")
            ).where(*self._of(chat_id, owner))
        )
        row = rows.one_or_none()
        if row is None:
            raise ChatNotFound("There is no such chat, or it has expired.")
        if row.in_progress:
            raise TurnInProgress("Another turn of this chat is being made.", retry_after=max(1, ceil(row.left)))
        last_turn: int = row.last_turn
        return last_turn


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
