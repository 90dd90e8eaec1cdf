"""The table `blobs` lists every stored blob. A row is written before its blob, and deleted after it.

An unreferenced blob is deleted in three steps, so that no transaction waits for the blob store: mark its row, delete
the blob, delete the row. If the same bytes are needed in between, they are stored under another name.
"""

import asyncio
import secrets
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import and_, case, delete, exists, false, literal, or_, select, true, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from app.lib.base64_json import Content
from app.store.blobs.blob import Blob, digest_of
from app.store.blobs.store import BlobStore
from app.store.database import Database
from app.store.tables import blobs, generation_blobs, generations, turn_blobs

GRACE_SECONDS = 600
"""An unreferenced blob stays this long after it was announced, because a transaction may be about to refer to it."""

_BATCH = 100


class BlobIndex:
    def __init__(self, database: Database, blobs: BlobStore) -> None:
        self._database = database
        self._blobs = blobs

    async def store(self, contents: Iterable[Content], generation_id: str | None = None) -> dict[int, Blob]:
        """Store the contents. Each distinct content is stored once, and a stored `Blob` is not stored again.

        The rows that refer to the blobs have to follow within `GRACE_SECONDS`.

        Args:
            contents: the bytes to store.
            generation_id: a recorded generation that refers to them from now on.

        Returns:
            The blob of each content, by the content's `id`. All blobs are durable.
        """
        distinct = {id(content): content for content in contents}
        digests = {key: await self._digest(content) for key, content in distinct.items()}
        by_digest = {digests[key]: content for key, content in distinct.items()}
        by_digest |= {content.digest: content for content in distinct.values() if isinstance(content, Blob)}
        if not by_digest:
            return {}
        known, names = await self._announce(by_digest, generation_id)
        await asyncio.gather(*(self._put(names[one], by_digest[one], known.get(one)) for one in by_digest))
        blobs = {digest: self._blobs.blob(names[digest], len(content)) for digest, content in by_digest.items()}
        return {key: blobs[digest] for key, digest in digests.items()}

    async def store_without_rows(self, contents: Iterable[Content]) -> dict[int, Blob]:
        """Store the contents although the database does not answer. `store` has to be called with the blobs later.

        No other writer uses their names, so no cleanup deletes them.
        """
        distinct = {id(content): content for content in contents}
        names = {key: f"{await self._digest(content)}-{secrets.token_hex(4)}" for key, content in distinct.items()}
        await asyncio.gather(*(self._blobs.put(names[key], content) for key, content in distinct.items()))
        return {key: self._blobs.blob(names[key], len(content)) for key, content in distinct.items()}

    async def _digest(self, content: Content) -> str:
        return content.digest if isinstance(content, Blob) else await digest_of(content)

    async def _put(self, name: str, content: Content, known_name: str | None) -> None:
        if isinstance(content, Blob) and content.name == name:
            return
        if known_name == name and await self._blobs.has(name, len(content)):
            await self._blobs.fsync(name)  # another writer may not have synced it yet
        else:
            await self._blobs.put(name, content)

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
        dialect = sqlite if self._database.is_sqlite else postgresql
        other_name = blobs.c.digest + f"-{secrets.token_hex(4)}"
        rows = [
            {
                "digest": digest,
                "name": content.name if isinstance(content, Blob) else digest,
                "bytes": len(content),
                "touched_at": self._database.now,
            }
            for digest, content in sorted(contents.items())  # one order for all writers avoids deadlocks
        ]

        def transaction(connection: Connection) -> tuple[dict[str, str], dict[str, str]]:
            found = connection.execute(select(blobs.c.digest, blobs.c.name).where(blobs.c.digest.in_(contents)))
            known = {row.digest: row.name for row in found}
            announced = connection.execute(
                dialect.insert(blobs)
                .values(rows)
                .on_conflict_do_update(
                    index_elements=[blobs.c.digest],
                    set_={
                        "touched_at": self._database.now,
                        "name": case((blobs.c.doomed, other_name), else_=blobs.c.name),
                        "doomed": false(),
                    },
                )
                .returning(blobs.c.digest, blobs.c.name)
            )
            names = {row.digest: row.name for row in announced}
            if generation_id is not None:
                link_to_generation(connection, dialect, generation_id, names)
            return known, names

        return await self._database.write(transaction)

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


def link_to_generation(connection: Connection, dialect: Any, generation_id: str, digests: Iterable[str]) -> None:
    """Refer to blobs from a recorded generation. Nothing happens if the generation is gone."""
    links = select(literal(generation_id), blobs.c.digest).where(
        blobs.c.digest.in_(list(digests)), exists().where(generations.c.id == generation_id)
    )
    connection.execute(
        dialect.insert(generation_blobs).from_select(["generation_id", "digest"], links).on_conflict_do_nothing()
    )
