"""The table `blobs` lists every stored blob. A row is written before its blob, and deleted after it.

An unreferenced blob is deleted in three steps, so that no transaction waits for the blob store: mark its row, delete
the blob, delete the row. If the same bytes are needed in between, they are stored under another name.
"""

import asyncio
import secrets
from collections.abc import Iterable

from sqlalchemy import and_, case, delete, exists, false, or_, select, true, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from app.lib.base64_json import Content
from app.store.blobs.blob import Blob, digest_of
from app.store.blobs.store import BlobStore
from app.store.database import Database
from app.store.tables import blobs, turn_blobs

GRACE_SECONDS = 600
"""An unreferenced blob stays this long after it was announced, because a transaction may be about to refer to it."""

_BATCH = 100


class BlobIndex:
    def __init__(self, database: Database, blobs: BlobStore) -> None:
        self._database = database
        self._blobs = blobs

    async def store(self, contents: Iterable[Content]) -> dict[int, Blob]:
        """Store the contents. Each distinct content is stored once, and a stored `Blob` is not stored again.

        The rows that refer to the blobs have to follow within `GRACE_SECONDS`.

        Returns:
            The blob of each content, by the content's `id`. All blobs are durable.
        """
        distinct = {id(content): content for content in contents}
        stored = {key: content for key, content in distinct.items() if isinstance(content, Blob)}
        new = {key: (await digest_of(content), content) for key, content in distinct.items() if key not in stored}
        sizes = {digest: len(content) for digest, content in new.values()}
        sizes |= {blob.digest: len(blob) for blob in stored.values()}
        if not sizes:
            return {}
        known, names = await self._announce(sizes)
        by_digest = dict(new.values())
        await asyncio.gather(*(self._put(names[one], by_digest[one], known.get(one)) for one in by_digest))
        return stored | {key: self._blobs.blob(names[digest], len(content)) for key, (digest, content) in new.items()}

    async def _put(self, name: str, content: Content, known_name: str | None) -> None:
        if known_name == name and await self._blobs.has(name, len(content)):
            await self._blobs.fsync(name)  # another writer may not have synced it yet
        else:
            await self._blobs.put(name, content)

    async def _announce(self, sizes: dict[str, int]) -> tuple[dict[str, str], dict[str, str]]:
        """Write the rows of blobs that a transaction is about to refer to.

        Args:
            sizes: bytes of each blob, by digest.

        Returns:
            The names of the blobs that had a row before, and the current names of all of them; both by digest.
        """
        dialect = sqlite if self._database.is_sqlite else postgresql
        other_name = blobs.c.digest + f"-{secrets.token_hex(4)}"

        def transaction(connection: Connection) -> tuple[dict[str, str], dict[str, str]]:
            found = connection.execute(select(blobs.c.digest, blobs.c.name).where(blobs.c.digest.in_(sizes)))
            known = {row.digest: row.name for row in found}
            rows = [
                {"digest": digest, "name": digest, "bytes": size, "touched_at": self._database.now}
                for digest, size in sorted(sizes.items())  # one order for all writers avoids deadlocks
            ]
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
            return known, {row.digest: row.name for row in announced}

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
