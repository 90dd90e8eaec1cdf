"""Answers of Gemini in the blob store, so that a crash or a missing database loses none of them.

The files of an answer are blobs. One more object names them, and has everything else. It is deleted when the row of the
generation says the same.

In a directory, the object first has the files themselves, one after the other after the JSON document. So the answer is
kept before the files are hashed and have rows: the response waits for it. In a bucket, that would be a second upload.
"""

import asyncio
import logging
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import Context
from dataclasses import replace
from functools import partial
from itertools import accumulate

from app.domain.errors import StorageDamaged, StorageError
from app.domain.generation import Generation, Image, Part
from app.domain.recorded import TurnToSave
from app.lib.base64_json import BufferContent, Content
from app.store.blobs import Blob, BlobIndex, BlobStore, PendingBlobs
from app.store.generations.serialization import Answer, dump_answer, load_answer

log = logging.getLogger(__name__)

_START = "+"
"""First character of the name of a file inside the object. Its position follows."""

_CHECKSUM_BYTES = 4
"""Length of the CRC-32 at the end of an object with files."""

_RESPONSE_SECONDS = 0.001
"""How long a response needs to end once the answer is kept. On a single core, hashing would delay it."""

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
        if turn is None and self._blobs.is_directory:
            await self._write_whole(_name(id_, place), answer, contents)
            if on_published is not None:
                on_published()
                await asyncio.sleep(_RESPONSE_SECONDS)
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

    async def _write_whole(self, name: str, answer: Answer, contents: Sequence[Content]) -> None:
        """Write the object with the files."""
        starts = dict(zip(map(id, contents), accumulate(map(len, contents), initial=0), strict=False))
        text = dump_answer(answer, lambda content: (f"{_START}{starts[id(content)]}", len(content)))
        pieces = [piece for content in contents async for piece in content]
        await self._blobs.write(name, _with_checksum([f"{text}\n".encode(), *pieces]))

    async def _write(
        self, id_: str, place: int, answer: Answer, pending: PendingBlobs, on_published: Callable[[], None] | None
    ) -> Generation:
        """Write the files, and an object that names them."""
        text = dump_answer(answer, lambda content: (pending.blobs[id(content)].name, len(content)))
        name = _name(id_, place)
        write_object = partial(self._blobs.write, name, [text.encode()])
        if self._blobs.is_directory:  # the object may replace one that has the files
            await pending.publish()
            await write_object()
        else:  # `find` ignores an object whose files do not exist
            await asyncio.gather(pending.publish(), write_object())
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
        data = await self._blobs.find(_name(id_, place))
        if data is None:
            return None
        text, files = _split(data)
        opened: dict[str, Content] = {}

        def open_(name: str, size: int) -> Content:
            is_blob = not name.startswith(_START)
            opened[name] = self._blobs.blob(name, size) if is_blob else _file(files, int(name[1:]), size)
            return opened[name]

        try:
            load_answer(text, open_)
        except StorageDamaged as error:
            log.warning("a stored answer cannot be read", extra={"generation": id_, "cause": error.cause})
            return None
        for content in opened.values():
            if isinstance(content, Blob) and not await self._blobs.has(content.name, len(content)):
                log.warning("a stored answer lacks a file", extra={"generation": id_})
                return None
        stored = await self._index.store(opened.values(), id_)
        return load_answer(text, lambda name, _: stored[id(opened[name])])

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


def _with_checksum(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the pieces, and their CRC-32. It is computed while they are written, in the thread that writes them."""
    checksum = 0
    for piece in pieces:
        checksum = zlib.crc32(piece, checksum)
        yield piece
    yield checksum.to_bytes(_CHECKSUM_BYTES)


def _split(data: bytes) -> tuple[bytes, memoryview]:
    """Return the document of an object, and the files that follow it: none if the object is damaged.

    After a power cut, a file that was not yet durable can have its size but not its bytes.
    """
    end = data.find(b"\n")
    if end < 0:
        return data, memoryview(b"")
    whole = memoryview(data)
    is_complete = zlib.crc32(whole[:-_CHECKSUM_BYTES]).to_bytes(_CHECKSUM_BYTES) == whole[-_CHECKSUM_BYTES:]
    return data[:end], whole[end + 1 : -_CHECKSUM_BYTES] if is_complete else memoryview(b"")


def _file(files: memoryview, start: int, size: int) -> Content:
    """Return one of the files of an object. Raises `ValueError` if the object is not complete."""
    if len(files) < start + size:
        raise ValueError("an answer is cut off")
    return BufferContent(bytes(files[start : start + size]))


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
