"""What one call to Gemini carries beside its JSON."""

import asyncio
import base64
from collections.abc import Callable
from contextvars import ContextVar, Token
from dataclasses import dataclass
from functools import partial
from typing import Self

import httpx2

from app.domain.progress import GenerationProgress, Stage
from app.gemini.transport.http import RawResponse
from app.gemini.transport.limits import MAX_DOCUMENTS, MAX_EXTRACTED_STRINGS
from app.gemini.transport.request_body import READ_AHEAD_BYTES, RequestBody
from app.gemini.transport.sse import SseParser
from app.lib.base64_json import (
    Base64Decoder,
    Base64Encoded,
    Base64Extractor,
    BufferContent,
    Content,
    Placeholders,
    SegmentedContent,
    decode,
)

current_exchange: ContextVar["ImageExchange"] = ContextVar("exchange")


class MemoryBudgetTimeout(Exception):
    """The answer is there, and there is no memory for it."""


class ResponseTooLarge(Exception):
    """Gemini sends more than we are willing to hold."""


@dataclass(frozen=True, slots=True)
class Trip:
    """What an answer is for."""

    progress: GenerationProgress
    expected_bytes: int
    """How much of it will be kept, if it does not say how long it is."""
    room_seconds: float
    """How long it may wait for room."""


class ImageExchange:
    """What one call carries beside its JSON, for as long as the block around call and reading lasts.

    Each attempt of the call sends the same again, from its beginning, and forgets what an earlier one has received.
    """

    def __init__(self, trip: Trip | None = None, *, keep_signatures: bool = False) -> None:
        """
        Args:
            trip: what the answer is for, and how much it may hold.
            keep_signatures: hold thought signatures too, which are often larger than the image. Else they are dropped
                while they arrive.
        """
        self._tokens = Placeholders()
        self._before: Token[ImageExchange] | None = None
        self._sent: dict[bytes, Content] = {}
        self._reads_ahead = False
        self._holds_images = False
        signature = partial(_Received, self._hold) if keep_signatures else None
        image = partial(_Received, self._hold_image)
        self._sinks = {"data": image, "thoughtSignature": signature, "thought_signature": signature}
        self._extractor = Base64Extractor[_Received](self._sinks)
        self._trip = trip
        self._answer: RawResponse | None = None
        self._held = 0
        self._reader: SseParser | None = None
        self._documents: list[str] = []
        self._documents_count = 0
        self._contents: dict[str, Content] = {}

    def __enter__(self) -> Self:
        """Requests that are made inside the block, by this task, are this exchange's."""
        self._before = current_exchange.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._before is not None
        current_exchange.reset(self._before)
        # A connection that was opened inside the block remembers the context it was opened in for as long as it lives.
        self._sent.clear()
        self._contents.clear()
        self._extractor, self._sinks, self._answer, self._trip = Base64Extractor({}), {}, None, None

    def placeholder_for(self, content: Content) -> bytes:
        """Let `content` go out with the request; the SDK is to be given what comes back in its place."""
        token = self._tokens.next()
        self._sent[token.encode()] = content
        self._reads_ahead = self._reads_ahead or content.is_remote
        return base64.b64decode(token)

    def content_for(self, data: str) -> Content:
        """What `data`, a string of the answer as the SDK sees it, stands for.

        Raises:
            ValueError: it is not base64.
        """
        if data not in self._contents:
            lifted = self._extractor.extracted.get(data)
            if lifted is not None and not lifted.is_valid:
                raise ValueError("not valid base64")
            self._contents[data] = BufferContent(decode(data)) if lifted is None else SegmentedContent(lifted.pieces)
        return self._contents[data]

    def splice(self, request: httpx2.Request, body: bytes) -> httpx2.Request:
        """`request` with everything that is to be sent in its place."""
        segments: list[bytes | Base64Encoded] = []
        start, beginning = 0, b'"' + self._tokens.prefix.encode()
        while (quote := body.find(beginning, start)) >= 0:
            end = quote + 1 + Placeholders.LENGTH
            segments += [body[start : quote + 1], Base64Encoded(self._sent[body[quote + 1 : end]])]
            start = end
        assert len(segments) == 2 * len(self._sent), "the SDK has left out an image"
        segments.append(body[start:])
        headers = request.headers.copy()
        headers["Content-Length"] = str(sum(map(len, segments)))
        return httpx2.Request(
            request.method, request.url, headers=headers, stream=RequestBody(segments), extensions=request.extensions
        )

    async def ready(self) -> None:
        """The request is about to be sent. What comes from afar needs room on its way.

        Raises:
            MemoryBudgetTimeout: there is none.
        """
        if self._reads_ahead and self._trip is not None:
            try:
                async with asyncio.timeout(self._trip.room_seconds):
                    await self._trip.progress.memory.acquire(READ_AHEAD_BYTES)
            except TimeoutError as error:
                raise MemoryBudgetTimeout(
                    "Other answers take all the memory there is; Gemini was not asked."
                ) from error

    async def begin(self, answer: RawResponse, announced_bytes: int | None) -> None:
        """An answer arrives. Its bytes need room.

        Args:
            answer: its headers are there.
            announced_bytes: how long it says that its body is.
        """
        self._answer = answer
        self._extractor = Base64Extractor(self._sinks)
        self._reader = SseParser() if self._trip is not None else None
        self._documents = []
        self._documents_count = 0
        self._contents = {}
        self._held = 0
        self._holds_images = False
        if self._trip is not None:
            self._trip.progress.received_bytes = 0
            self._trip.progress.enter(Stage.MEMORY_WAIT)
            self._trip.progress.memory.resize(0)  # the request is out
            # Nearly all of an answer is base64, and some of that are signatures that are not kept. More than usual is
            # not taken beforehand, whatever is announced: the share grows as the bytes arrive.
            expected = self._trip.expected_bytes
            if announced_bytes is not None:
                expected = min(expected, announced_bytes * 3 // 4)
            try:
                async with asyncio.timeout(self._trip.room_seconds):
                    await self._trip.progress.memory.acquire(expected)
            except TimeoutError as error:
                raise MemoryBudgetTimeout(
                    "Gemini's answer came, but other answers take all the memory there is."
                ) from error
            self._trip.progress.enter(Stage.TRANSFER)

    def extract(self, chunk: bytes) -> bytes:
        """Take out of the next piece of the answer what does not belong into JSON.

        Raises:
            ResponseTooLarge: it holds more images and signatures than any answer does.
        """
        if self._trip is not None:
            self._trip.progress.received_bytes += len(chunk)
        rest = self._extractor.feed(chunk)
        if len(self._extractor.extracted) > MAX_EXTRACTED_STRINGS:
            raise ResponseTooLarge(f"more than {MAX_EXTRACTED_STRINGS} images and signatures")
        return rest

    def read(self, rest: bytes) -> bytes:
        """Read the next piece of the JSON that the images were taken out of.

        Returns:
            What the SDK is to be given: a sign that something has come. What it is is known to `documents()`, for the
            SDK's own reader stumbles over whatever is no data. Without a trip the SDK reads the JSON itself.
        """
        return rest if self._reader is None else self._found(self._reader.feed(rest))

    def end(self) -> bytes:
        """The answer has ended, or broken off; what was held back of it is read."""
        rest = self._extractor.close()
        return rest if self._reader is None else self._found(self._reader.feed(rest) + self._reader.close())

    def _found(self, documents: list[str]) -> bytes:
        self._documents += documents
        self._documents_count += len(documents)
        if self._documents_count > MAX_DOCUMENTS:
            raise ResponseTooLarge(f"more than {MAX_DOCUMENTS:,} events")
        return b"data: {}\n\n" if documents else b""

    def documents(self) -> list[str]:
        """The JSON documents that have arrived since the last time: one for a plain answer, one for each event of a
        stream."""
        documents, self._documents = self._documents, []
        return documents

    def _hold_image(self, count: int) -> None:
        self._holds_images = True
        self._hold(count)

    def _hold(self, count: int) -> None:
        """So many bytes more are kept. What was expected may have been too little."""
        self._held += count
        if self._trip is not None and self._held > self._trip.progress.memory.held:
            self._trip.progress.memory.resize(self._held)

    @property
    def holds_images(self) -> bool:
        """Whether something of an image has arrived."""
        return self._holds_images

    async def aclose(self) -> None:
        """Let go of the connection, which the SDK does not do where it fails in the middle of a stream."""
        if self._answer is not None:
            await self._answer.aclose()


class _Received(Base64Decoder):
    """A string of the answer, decoded while it arrives."""

    def __init__(self, count: Callable[[int], None]) -> None:
        """
        Args:
            count: told of the bytes that are kept, as they come.
        """
        self.pieces = pieces = list[bytes]()

        def keep(
            piece: bytes,
        ) -> None:  # no method: that would hold on to us, and the image would wait for the collector
            pieces.append(piece)
            count(len(piece))

        super().__init__(keep)
