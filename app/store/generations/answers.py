"""Answers of Gemini in the blob store, so that a crash or a missing database loses none of them.

The files of an answer are blobs. One more object names them, and has everything else. It is deleted when the row of the
generation says the same.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextvars import Context
from dataclasses import replace

from app.domain.errors import StorageDamaged, StorageError
from app.domain.generation import Generation, Image, Part
from app.domain.recorded import TurnToSave
from app.lib.base64_json import Content
from app.lib.base64_json.content import BufferContent
from app.store.blobs import Blob, BlobIndex, BlobStore, PendingBlobs
from app.store.generations.serialization import Answer, dump_answer, load_answer

log = logging.getLogger(__name__)

_ROWS_SECONDS = 3.0
"""How long an answer waits for the database. Then it is stored without it."""


class AnswerStore:
    def __init__(self, blobs: BlobStore, index: BlobIndex) -> None:
        self._blobs = blobs
        self._index = index
        self._without_rows: set[str] = set()
        self._forgetting: set[asyncio.Task[None]] = set()

    async def keep(
        self,
        id_: str,
        place: int,
        generation: Generation,
        turn: TurnToSave | None,
        on_published: Callable[[], None] | None,
    ) -> Generation:
        """See `GenerationStore.keep_answer`."""
        answer = Answer(generation, turn)
        contents = _contents(answer)
        try:
            async with asyncio.timeout(_ROWS_SECONDS) as time_limit, self._index.prepare(contents, id_) as pending:
                time_limit.reschedule(None)
                return await self._write(id_, place, answer, pending, on_published)
        except (StorageError, TimeoutError) as error:
            if isinstance(error, StorageError) and error.part != "database":
                raise
        async with self._index.prepare(contents, with_rows=False) as pending:
            kept = await self._write(id_, place, answer, pending, on_published)
        self._without_rows |= {blob.name for blob in pending.blobs.values()}
        return kept

    async def _write(
        self, id_: str, place: int, answer: Answer, pending: PendingBlobs, on_published: Callable[[], None] | None
    ) -> Generation:
        """Write the files and the object together. `find` ignores an object whose files do not exist."""
        text = dump_answer(answer, lambda content: (pending.blobs[id(content)].name, len(content)))
        name = _name(id_, place)
        staged = self._blobs.stage(BufferContent(text.encode()))
        try:
            await asyncio.gather(pending.publish(), self._blobs.publish(staged, name))
        finally:
            await staged.discard()
        if on_published is not None:
            on_published()
        await asyncio.gather(pending.fsync(), self._blobs.fsync(name))
        return _with_blobs(answer.generation, pending.blobs)

    async def adopt(self, id_: str, contents: Iterable[Content]) -> dict[int, Blob]:
        """Store what is not stored, and write the rows of blobs that have none. Return the blobs by `id`."""
        missing = [one for one in contents if not isinstance(one, Blob) or one.name in self._without_rows]
        stored = await self._index.store(missing, id_)
        self._without_rows -= {one.name for one in missing if isinstance(one, Blob)}
        return stored

    async def find(self, id_: str, place: int) -> Answer | None:
        """Return a stored answer whose blobs all exist and have rows; `None` if there is certainly none.

        Raises:
            StorageUnavailable, StorageFull: the blob store or the database does not answer.
        """
        text = await self._blobs.find(_name(id_, place))
        if text is None:
            return None
        try:
            answer = load_answer(text, self._blobs.blob)
        except StorageDamaged as error:
            log.warning("a stored answer cannot be read", extra={"generation": id_, "cause": error.cause})
            return None
        named = [one for one in _contents(answer) if isinstance(one, Blob)]
        for blob in named:
            if not await self._blobs.has(blob.name, len(blob)):
                log.warning("a stored answer lacks a file", extra={"generation": id_})
                return None
        stored = await self._index.store(named, id_)
        names = {blob.name: stored[id(blob)] for blob in named}
        return load_answer(text, lambda name, _: names[name])

    def forget(self, id_: str, count: int) -> None:
        """Delete the objects in the background. What is left is deleted with the generation."""
        deleting = asyncio.create_task(self._forget([_name(id_, place) for place in range(count)]), context=Context())
        self._forgetting.add(deleting)
        deleting.add_done_callback(self._forgetting.discard)

    async def _forget(self, names: list[str]) -> None:
        try:
            await self._blobs.delete(names)
        except Exception as error:  # the sweep of the generation deletes them
            log.warning("a stored answer could not be deleted", extra={"cause": getattr(error, "cause", repr(error))})

    async def delete(self, counts: Iterable[tuple[str, int]]) -> None:
        """Delete the objects of generations that are gone.

        Args:
            counts: ids, each with its number of images.
        """
        names = [_name(id_, place) for id_, count in counts for place in range(count)]
        if names:
            await self._blobs.delete(names)

    async def aclose(self) -> None:
        if self._forgetting:
            await asyncio.wait(self._forgetting)


def _name(id_: str, place: int) -> str:
    return f"{id_}.{place}"


def _contents(answer: Answer) -> list[Content]:
    """Return the files of an answer. The parts that were sent and received are stored only with a turn."""
    generation, turn = answer.generation, answer.turn
    parts: list[Part] = []
    images = [generation.image, *generation.drafts]
    if turn is not None:
        parts = [*generation.request_parts, *generation.response_parts, *turn.turn.user, *turn.turn.answer]
        images += [reference.image for reference in turn.turn.references]
        images += [turn.turn.image] if turn.turn.image else []
    return [*(content for part in parts for content in part.contents), *(image.content for image in images)]


def _with_blobs(generation: Generation, stored: dict[int, Blob]) -> Generation:
    """Return the generation with its files in the store, also those of its parts if they are stored."""

    def image(one: Image) -> Image:
        return replace(one, content=stored[id(one.content)])

    def part(one: Part) -> Part:
        return replace(
            one, data=stored.get(id(one.data), one.data), signature=stored.get(id(one.signature), one.signature)
        )

    return replace(
        generation,
        image=image(generation.image),
        drafts=tuple(map(image, generation.drafts)),
        request_parts=tuple(map(part, generation.request_parts)),
        response_parts=tuple(map(part, generation.response_parts)),
    )
