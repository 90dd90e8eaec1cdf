"""The images of one call to Gemini. The JSON of the request and of the response has placeholders for them."""

import asyncio
import base64
from collections.abc import Callable
from contextvars import ContextVar, Token
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
    """A request or response waited too long for memory."""


class ResponseTooLarge(Exception):
    """Gemini sends more than the service accepts."""


class ImageExchange:
    """The images that one call sends and receives beside its JSON.

    Use it as a context manager: calls that this task makes inside the block belong to the exchange. Each attempt sends
    the same images again and drops what an earlier attempt received.
    """

    def __init__(
        self,
        progress: GenerationProgress | None = None,
        *,
        expected_bytes: int = 0,
        memory_timeout_seconds: float = 0,
        keep_signatures: bool = False,
    ) -> None:
        """
        Args:
            progress: the generation that the call is for; its memory reservation holds the received bytes. Without it
                nothing is reserved, and the SDK parses the JSON itself.
            expected_bytes: the memory to reserve for a response that does not announce its length.
            memory_timeout_seconds: how long the call may wait for memory.
            keep_signatures: keep thought signatures, which are often larger than the image. Otherwise they are dropped
                while they arrive.
        """
        self._progress = progress
        self._expected_bytes = expected_bytes
        self._memory_timeout_seconds = memory_timeout_seconds
        self._placeholders = Placeholders()
        self._outer: Token[ImageExchange] | None = None
        self._sent: dict[bytes, Content] = {}
        self._reads_ahead = False
        signature = partial(_Received, self._count_kept) if keep_signatures else None
        image = partial(_Received, self._count_image)
        self._sinks = {"data": image, "thoughtSignature": signature, "thought_signature": signature}
        self._forget_response()

    def _forget_response(self) -> None:
        self._response: RawResponse | None = None
        self._extractor = Base64Extractor[_Received](self._sinks)
        self._parser = SseParser() if self._progress is not None else None
        self._documents: list[str] = []
        self._document_count = 0
        self._contents: dict[str, Content] = {}
        self._kept_bytes = 0
        self._holds_images = False

    def __enter__(self) -> Self:
        self._outer = current_exchange.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._outer is not None
        current_exchange.reset(self._outer)
        # A connection that was opened inside the block keeps this context alive, so references to images must go.
        self._sent.clear()
        self._contents.clear()
        self._extractor, self._sinks, self._response, self._progress = Base64Extractor({}), {}, None, None

    # The request.

    def placeholder_for(self, content: Content) -> bytes:
        """Send `content` with the request. Return the bytes that the SDK is given in its place."""
        placeholder = self._placeholders.next()
        self._sent[placeholder.encode()] = content
        self._reads_ahead = self._reads_ahead or content.is_remote
        return base64.b64decode(placeholder)

    def splice(self, request: httpx2.Request, body: bytes) -> httpx2.Request:
        """Return `request` with the base64 of the images in the place of their placeholders."""
        segments: list[bytes | Base64Encoded] = []
        start, beginning = 0, b'"' + self._placeholders.prefix.encode()
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

    async def reserve_request(self) -> None:
        """Reserve memory for the parts of remote images that are read ahead while the request is sent.

        Raises:
            MemoryBudgetTimeout: other responses use the memory.
        """
        if self._reads_ahead and self._progress is not None:
            message = "Other responses use all the memory for responses. Gemini received nothing of the request."
            await self._reserve(self._progress, READ_AHEAD_BYTES, message)

    # The response.

    async def start_response(self, response: RawResponse, announced_bytes: int | None) -> None:
        """Drop what an earlier attempt received, and reserve memory for this response.

        Args:
            response: its headers have arrived.
            announced_bytes: the length of its body, if it has a `Content-Length`.

        Raises:
            MemoryBudgetTimeout: other responses use the memory.
        """
        self._forget_response()
        self._response = response
        if self._progress is None:
            return
        self._progress.received_bytes = 0
        self._progress.enter(Stage.MEMORY_WAIT)
        self._progress.memory.resize(0)  # the request is sent
        # Most of a response is base64, and dropped signatures are part of that. A large announcement reserves no more
        # than usual; the reservation grows as bytes arrive.
        expected = self._expected_bytes
        if announced_bytes is not None:
            expected = min(expected, announced_bytes * 3 // 4)
        message = "Gemini responded, but other responses use all the memory for responses."
        await self._reserve(self._progress, expected, message)
        self._progress.enter(Stage.TRANSFER)

    async def _reserve(self, progress: GenerationProgress, count: int, message: str) -> None:
        try:
            async with asyncio.timeout(self._memory_timeout_seconds):
                await progress.memory.acquire(count)
        except TimeoutError as error:
            raise MemoryBudgetTimeout(message) from error

    def extract(self, piece: bytes) -> bytes:
        """Take base64 out of the next piece of the response, and return the JSON that remains.

        Raises:
            ResponseTooLarge: there are more than `MAX_EXTRACTED_STRINGS` images and signatures.
        """
        if self._progress is not None:
            self._progress.received_bytes += len(piece)
        json = self._extractor.feed(piece)
        if len(self._extractor.extracted) > MAX_EXTRACTED_STRINGS:
            raise ResponseTooLarge(f"more than {MAX_EXTRACTED_STRINGS} images and signatures")
        return json

    def parse(self, json: bytes) -> bytes:
        """Parse the next piece of the JSON, and return what the SDK gets.

        The SDK's parser fails on any line that is not data. So the SDK gets an empty event for each piece with complete
        documents, and `documents` returns the documents. Without a generation the SDK gets the JSON itself.
        """
        return json if self._parser is None else self._collect(self._parser.feed(json))

    def end(self) -> bytes:
        """Parse what remains after the last piece of the response, and return what the SDK gets."""
        json = self._extractor.close()
        return json if self._parser is None else self._collect(self._parser.feed(json) + self._parser.close())

    def _collect(self, documents: list[str]) -> bytes:
        self._documents += documents
        self._document_count += len(documents)
        if self._document_count > MAX_DOCUMENTS:
            raise ResponseTooLarge(f"more than {MAX_DOCUMENTS:,} events")
        return b"data: {}\n\n" if documents else b""

    def documents(self) -> list[str]:
        """Return the JSON documents that arrived since the last call: the whole response, or the events of a stream."""
        documents, self._documents = self._documents, []
        return documents

    def content_for(self, data: str) -> Content:
        """Return the content of `data`, a base64 string or placeholder in the JSON of the response.

        Raises:
            ValueError: it is not base64.
        """
        if data not in self._contents:
            extracted = self._extractor.extracted.get(data)
            if extracted is not None and not extracted.is_valid:
                raise ValueError("not valid base64")
            self._contents[data] = (
                BufferContent(decode(data)) if extracted is None else SegmentedContent(extracted.pieces)
            )
        return self._contents[data]

    @property
    def holds_images(self) -> bool:
        """True if some of an image has arrived."""
        return self._holds_images

    async def aclose(self) -> None:
        """Close the response. The SDK does not do so if it fails in the middle of a stream."""
        if self._response is not None:
            await self._response.aclose()

    def _count_image(self, count: int) -> None:
        self._holds_images = True
        self._count_kept(count)

    def _count_kept(self, count: int) -> None:
        """Count `count` more bytes that are kept. Enlarge the reservation if it was too small."""
        self._kept_bytes += count
        if self._progress is not None and self._kept_bytes > self._progress.memory.held:
            self._progress.memory.resize(self._kept_bytes)


class _Received(Base64Decoder):
    """An image or a signature of the response, decoded while it arrives."""

    def __init__(self, count: Callable[[int], None]) -> None:
        """
        Args:
            count: is called with the number of bytes of each piece that is kept.
        """
        self.pieces = pieces = list[bytes]()

        # A method would make a reference cycle, and the image would stay until the garbage collector runs.
        def keep(piece: bytes) -> None:
            pieces.append(piece)
            count(len(piece))

        super().__init__(keep)
