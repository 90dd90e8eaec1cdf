"""The ledger of stored files: each has its row before it is written and until it is removed, so that none is forgotten.

A file that nobody refers to any more is removed in three steps, so that no transaction waits for a store: its row is
marked, the file is removed, the row follows. Whoever needs the same bytes meanwhile stores them under another name.
"""

import asyncio
import secrets
from collections.abc import Iterable

from sqlalchemy import and_, case, delete, exists, false, or_, select, true, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from app.lib.base64_json import Content
from app.store.blobs import Blob, BlobStore, digest_of
from app.store.database import Database
from app.store.tables import blobs, turn_blobs

GARBAGE_SECONDS = 600
"""How long files that nobody refers to are left alone. Somebody may be about to refer to them, and then does so within
`KEEP_SECONDS`."""

KEEP_SECONDS = 300
"""How long it may take from a file's announcement to the row that refers to it."""

_BATCH = 100


class BlobIndex:
    def __init__(self, database: Database, files: BlobStore) -> None:
        self._database = database
        self._files = files

    async def stored(self, contents: Iterable[Content]) -> dict[int, Blob]:
        """The stored file of each content, by its `id`, once all of them are durable."""
        distinct = {id(one): one for one in contents}
        kept = {key: one for key, one in distinct.items() if isinstance(one, Blob)}
        fresh = {key: (await digest_of(one), one) for key, one in distinct.items() if key not in kept}
        sizes = {digest: len(one) for digest, one in fresh.values()}
        sizes |= {one.digest: len(one) for one in kept.values()}
        if not sizes:
            return {}
        known, names = await self._announced(sizes)
        by_digest = dict(fresh.values())

        async def store(digest: str, one: Content) -> None:
            name = names[digest]
            if known.get(digest) == name and await self._files.has(name, len(one)):
                await self._files.fsync(name)  # whoever has written it may not be done
            else:
                await self._files.put(name, one)

        await asyncio.gather(*(store(digest, one) for digest, one in by_digest.items()))
        return kept | {key: self._files.blob(names[digest], len(one)) for key, (digest, one) in fresh.items()}

    async def _announced(self, sizes: dict[str, int]) -> tuple[dict[str, str], dict[str, str]]:
        """Write down that files are about to be referred to.

        Returns:
            The names of those that are known, and the names that all of them have from now on; by digest.
        """
        dialect = sqlite if self._database.is_sqlite else postgresql
        other_name = blobs.c.digest + f"-{secrets.token_hex(4)}"

        def work(connection: Connection) -> tuple[dict[str, str], dict[str, str]]:
            found = connection.execute(select(blobs.c.digest, blobs.c.name).where(blobs.c.digest.in_(sizes)))
            known = {row.digest: row.name for row in found}
            rows = [
                {"digest": digest, "name": digest, "bytes": size, "touched_at": self._database.now}
                for digest, size in sorted(sizes.items())  # in one order, or two of us wait for each other
            ]
            named = connection.execute(
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
            return known, {row.digest: row.name for row in named}

        return await self._database.write(work)

    async def sweep(self) -> int:
        """Remove the files that nobody refers to; how many those were."""
        removed = 0
        while doomed := await self._doom():
            await self._files.delete(list(doomed.values()))
            await self._forget(doomed)
            removed += len(doomed)
        return removed

    async def _doom(self) -> dict[str, str]:
        """Mark a batch of files, of marked ones too: somebody may not have come to their end. Names by digest."""
        unused = (
            select(blobs.c.digest)
            .where(
                blobs.c.touched_at < self._database.now - GARBAGE_SECONDS,
                ~exists().where(turn_blobs.c.digest == blobs.c.digest),
            )
            .order_by(blobs.c.touched_at)
            .limit(_BATCH)
            .with_for_update(skip_locked=True)
        )

        def work(connection: Connection) -> dict[str, str]:
            digests = list(connection.execute(unused).scalars())
            marked = connection.execute(
                update(blobs)
                .where(blobs.c.digest.in_(digests))
                .values(doomed=true())
                .returning(blobs.c.digest, blobs.c.name)
            )
            return {row.digest: row.name for row in marked}

        return await self._database.write(work)

    async def _forget(self, doomed: dict[str, str]) -> None:
        """The files are gone; so are their rows, unless somebody has given the bytes another name meanwhile."""
        same = or_(*(and_(blobs.c.digest == digest, blobs.c.name == name) for digest, name in doomed.items()))

        def work(connection: Connection) -> None:
            connection.execute(delete(blobs).where(blobs.c.doomed, same))

        await self._database.write(work)
