"""Delete what has expired, and the key that signs links."""

import secrets

from sqlalchemy import delete, select, update
from sqlalchemy.engine import Connection

from app.store.generations.answers import AnswerStore
from app.store.generations.rows import GenerationRows
from app.store.generations.serialization import image_count
from app.store.tables import generations, signing_keys

_BATCH = 100

_LINKS = "links"


class GenerationSweep:
    def __init__(self, rows: GenerationRows, answers: AnswerStore) -> None:
        self._rows = rows
        self._answers = answers
        self._signing_key: bytes | None = None

    async def sweep(self) -> int:
        """See `GenerationStore.sweep`."""
        await self._free_keys()
        deleted = 0
        while batch := await self._expired():
            await self._answers.delete(batch)  # first: nothing names the objects without the rows
            await self._delete([id_ for id_, _ in batch])
            deleted += len(batch)
        return deleted

    async def _expired(self) -> list[tuple[str, int]]:
        """Return a batch of ids, each with its number of images."""
        columns = generations.c.id, generations.c.document
        batch = select(*columns).where(generations.c.expires_at <= self._rows.now).limit(_BATCH)
        rows = await self._rows.database.read(lambda connection: connection.execute(batch).all())
        return [(row.id, image_count(row.document)) for row in rows]

    async def _delete(self, ids: list[str]) -> None:
        expired = delete(generations).where(generations.c.id.in_(ids), generations.c.expires_at <= self._rows.now)
        await self._rows.database.write(lambda connection: connection.execute(expired).close())

    async def _free_keys(self) -> None:
        expired = (
            update(generations)
            .where(generations.c.idempotency_key.is_not(None), generations.c.key_expires_at <= self._rows.now)
            .values(idempotency_key=None)
        )
        await self._rows.database.write(lambda connection: connection.execute(expired).close())

    async def signing_key(self) -> bytes:
        """See `GenerationStore.signing_key`."""
        if self._signing_key is None:
            query = select(signing_keys.c.value).where(signing_keys.c.name == _LINKS)
            new = {"name": _LINKS, "value": secrets.token_hex(32)}
            add = self._rows.dialect.insert(signing_keys).values(new).on_conflict_do_nothing()

            def transaction(connection: Connection) -> str:
                connection.execute(add)
                value: str = connection.execute(query).scalar_one()
                return value

            self._signing_key = bytes.fromhex(await self._rows.database.write(transaction))
        return self._signing_key
