"""The table `blobs` lists every stored blob. A row is written before its blob, and deleted after it.

An unreferenced blob is deleted in three steps, so that no transaction waits for the blob store: mark its row, delete
the blob, delete the row. If the same bytes are needed in between, they are stored under another name.
"""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import String, and_, bindparam, case, delete, exists, false, or_, select, true, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from app.lib.base64_json import Content
from app.store.blobs.blob import Blob, digest_of
from app.store.blobs.staging import Staged
from app.store.blobs.store import BlobStore
from app.store.database import Database
from app.store.tables import blobs, generation_blobs, generations, turn_blobs

GRACE_SECONDS = 600
"""An unreferenced blob stays this long after it was announced, because a transaction may be about to refer to it."""

_EARLY_BYTES = 8 * 1024 * 1024
"""Contents up to this size are written while they are hashed. That is wasted if the store has the content already."""

_BATCH = 100


_NAME = select(blobs.c.digest, blobs.c.name).where(blobs.c.digest == bindparam("digest"))


@dataclass(frozen=True, slots=True)
class _Write:
    """A blob to write, unless it exists."""

    blob: Blob
    content: Content
    staged: Staged | None
    is_known: bool
    """Whether the blob had a row with this name before."""


@dataclass(frozen=True, slots=True)
class PendingBlobs:
    """Blobs that have names, and that exist after `publish`."""

    blobs: dict[int, Blob]
    """By the `id` of their contents."""
    writes: Sequence[_Write]
    store: BlobStore

    async def publish(self) -> None:
        """Write the blobs that do not exist. They survive the end of this process when this returns."""
        await asyncio.gather(*map(self._publish, self.writes))

    async def fsync(self) -> None:
        """Return when all blobs are durable."""
        await asyncio.gather(*(self.store.fsync(one.blob.name) for one in self.writes))

    async def _publish(self, one: _Write) -> None:
        name = one.blob.name
        if isinstance(one.content, Blob) and one.content.name == name:
            return
        if one.is_known and await self.store.has(name, len(one.blob)):
            return  # `fsync` follows: another writer may not have synced it yet
        if one.staged is not None:
            await self.store.publish(one.staged, name)
        else:
            await self.store.put(name, one.content)


class BlobIndex:
    def __init__(self, database: Database, store: BlobStore) -> None:
        self._database = database
        self._blobs = store
        self._dialect: Any = sqlite if database.is_sqlite else postgresql
        # Built once: SQLAlchemy takes longer to build the statement than the database to run it.
        self._announcement = (
            self._dialect.insert(blobs)
            .values(touched_at=database.now)
            .on_conflict_do_update(
                index_elements=[blobs.c.digest],
                set_={
                    "touched_at": database.now,
                    "name": case((blobs.c.doomed, blobs.c.digest + "-" + bindparam("token")), else_=blobs.c.name),
                    "doomed": false(),
                },
            )
            .returning(blobs.c.name)
        )

    async def store(self, contents: Iterable[Content], generation_id: str | None = None) -> dict[int, Blob]:
        """Store the contents. Each distinct content is stored once, and a stored `Blob` is not stored again.

        The rows that refer to the blobs have to follow within `GRACE_SECONDS`.

        Args:
            contents: the bytes to store.
            generation_id: a recorded generation that refers to them from now on.

        Returns:
            The blob of each content, by the content's `id`. All blobs are durable.
        """
        async with self.prepare(contents, generation_id) as pending:
            await pending.publish()
            await pending.fsync()
            return pending.blobs

    @asynccontextmanager
    async def prepare(
        self, contents: Iterable[Content], generation_id: str | None = None, *, with_rows: bool = True
    ) -> AsyncGenerator[PendingBlobs]:
        """Choose the names of blobs and write their rows, while the bytes are already being written to a directory.

        Args:
            contents: the bytes to store.
            generation_id: as in `store`.
            with_rows: if false, the database is not needed. `store` has to be called with the blobs later. No other
                writer uses their names, so no cleanup deletes them.
        """
        distinct = {id(content): content for content in contents}
        early = {key: one for key, one in distinct.items() if not isinstance(one, Blob) and len(one) <= _EARLY_BYTES}
        staged = {key: self._blobs.stage(one) for key, one in early.items()}
        try:
            digests = dict(zip(distinct, await asyncio.gather(*map(_digest, distinct.values())), strict=True))
            chosen = {digests[key]: key for key in distinct}
            chosen |= {one.digest: key for key, one in distinct.items() if isinstance(one, Blob)}
            by_digest = {digest: distinct[key] for digest, key in chosen.items()}
            known: dict[str, str] = {}
            names = {digest: f"{digest}-{secrets.token_hex(4)}" for digest in by_digest}
            if with_rows and by_digest:
                known, names = await self._announce(by_digest, generation_id)
            named = {digest: self._blobs.blob(names[digest], len(one)) for digest, one in by_digest.items()}
            writes = [
                _Write(named[digest], distinct[key], staged.get(key), is_known=known.get(digest) == names[digest])
                for digest, key in chosen.items()
            ]
            yield PendingBlobs({key: named[digest] for key, digest in digests.items()}, writes, self._blobs)
        finally:
            await asyncio.gather(*(one.discard() for one in staged.values()))

    async def _announce(
        self, contents: Mapping[str, Content], generation_id: str | None
    ) -> tuple[dict[str, str], dict[str, str]]:
        """Write the rows of blobs that a transaction is about to refer to.

        Args:
            contents: by digest.
            generation_id: as in `store`.

        Returns:
            The names of the blobs that had a row before, and the current names of all of them; both by digest.
        """

        def transaction(connection: Connection) -> tuple[dict[str, str], dict[str, str]]:
            known: dict[str, str] = {}
            names: dict[str, str] = {}
            for digest, content in sorted(contents.items()):  # one order for all writers avoids deadlocks
                known |= {row.digest: row.name for row in connection.execute(_NAME, {"digest": digest})}
                name = content.name if isinstance(content, Blob) else digest
                row = {"digest": digest, "name": name, "bytes": len(content), "token": secrets.token_hex(4)}
                names[digest] = connection.execute(self._announcement, row).scalar_one()
            if generation_id is not None:
                link_to_generation(connection, self._dialect, generation_id, names)
            return known, names

        # The transaction that refers to the blobs follows, and is durable.
        return await self._database.write(transaction, durable=False)

    async def cleanup(self) -> int:
        """Delete unreferenced blobs; return their number."""
        deleted = 0
        while marked := await self._mark():
            await self._blobs.delete(list(marked.values()))
            await self._delete_rows(marked)
            deleted += len(marked)
        return deleted

    async def _mark(self) -> dict[str, str]:
        """Mark a batch of unreferenced blobs for deletion, including ones whose earlier deletion did not finish.

        Returns:
            Their names by digest.
        """
        unreferenced = (
            select(blobs.c.digest)
            .where(
                blobs.c.touched_at < self._database.now - GRACE_SECONDS,
                ~exists().where(turn_blobs.c.digest == blobs.c.digest),
                ~exists().where(generation_blobs.c.digest == blobs.c.digest),
            )
            .order_by(blobs.c.touched_at)
            .limit(_BATCH)
            .with_for_update(skip_locked=True)
        )

        def transaction(connection: Connection) -> dict[str, str]:
            digests = list(connection.execute(unreferenced).scalars())
            marked = connection.execute(
                update(blobs)
                .where(blobs.c.digest.in_(digests))
                .values(doomed=true())
                .returning(blobs.c.digest, blobs.c.name)
            )
            return {row.digest: row.name for row in marked}

        return await self._database.write(transaction)

    async def _delete_rows(self, marked: dict[str, str]) -> None:
        """Delete the rows of deleted blobs. A row that meanwhile has another name stays."""
        same = or_(*(and_(blobs.c.digest == digest, blobs.c.name == name) for digest, name in marked.items()))

        def transaction(connection: Connection) -> None:
            connection.execute(delete(blobs).where(blobs.c.doomed, same))

        await self._database.write(transaction)


async def _digest(content: Content) -> str:
    return content.digest if isinstance(content, Blob) else await digest_of(content)


def link_to_generation(connection: Connection, dialect: Any, generation_id: str, digests: Iterable[str]) -> None:
    """Refer to blobs, which have rows, from a recorded generation. Nothing happens if the generation is gone."""
    links = [{"generation": generation_id, "blob": digest} for digest in sorted(digests)]
    connection.execute(_LINK[dialect], links)


_EXISTING = select(generations.c.id, bindparam("blob", type_=String)).where(generations.c.id == bindparam("generation"))
_LINK = {
    dialect: dialect.insert(generation_blobs)
    .from_select(["generation_id", "digest"], _EXISTING)
    .on_conflict_do_nothing()
    for dialect in (sqlite, postgresql)
}
