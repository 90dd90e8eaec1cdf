"""The transport under the SDK: images go past the SDK, on the way out and on the way back.

The SDK writes and reads a small JSON text with tokens in it. What a token stands for is known to the `Exchange` of the
call; it is put in as base64 while the request is sent, and taken out while the answer arrives.
"""

import asyncio
import base64
import json
import re
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from contextvars import ContextVar, Token
from dataclasses import dataclass
from functools import partial
from typing import Self

import httpcore2
import httpx2

from app.domain.progress import Journey, Stage
from app.gemini.transport.pool import Answer, Network
from app.gemini.transport.request_body import READ_AHEAD_BYTES, Spliced
from app.gemini.transport.sse import EventReader
from app.lib.base64_json import Content, Decoder, Encoded, InMemory, InPieces, Lifter, Tokens, decode

_OF_THE_WIRE = (b"content-encoding", b"content-length", b"content-type", b"transfer-encoding")
"""Headers that are not passed on: the body is unpacked here, and it is read as UTF-8 whatever charset is named."""

MAX_REST_BYTES = 2 * 1024 * 1024
"""The most that an answer may hold beside its images and thought signatures. 32,768 tokens, the most that these models
write, are 200 kB of text; sources are some tens of kB; the chunks of a stream repeat half a kilobyte each."""

MAX_REST_ITEMS = 400_000
"""The most brackets, commas and quotation marks in it, each of which costs some tenths of a microsecond to read. A line
end costs several times as much, and is counted as `_ITEMS` says."""

MAX_DOCUMENTS = 5000
"""The most chunks of a stream. Some dozens are usual."""

MAX_STRINGS_LIFTED = 1000
"""The most images and signatures in an answer. Ten images are the most that has been seen."""

MAX_ERROR_BYTES = 128 * 1024
"""The longest body of an error that is read. Google's have up to some kB; of a longer one the status has to do."""

_SLICE_BYTES = 16 * 1024
"""JSON is read in slices of this size, and others get a turn on the event loop between them."""

_MANY_QUOTES = 256
"""A piece of a body with as many of them, or of backslashes, holds JSON rather than images."""

_current: ContextVar["Exchange"] = ContextVar("exchange")


class NoRoom(Exception):
    """The answer is there, and there is no memory for it."""


class AnswerTooLarge(Exception):
    """Gemini sends more than we are willing to hold."""


@dataclass(frozen=True, slots=True)
class Trip:
    """What an answer is for."""

    journey: Journey
    expected_bytes: int
    """How much of it will be kept, if it does not say how long it is."""
    room_seconds: float
    """How long it may wait for room."""


class Exchange:
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
        self._tokens = Tokens()
        self._before: Token[Exchange] | None = None
        self._sent: dict[bytes, Content] = {}
        self._reads_ahead = False
        self._holds_images = False
        signature = partial(_Received, self._hold) if keep_signatures else None
        image = partial(_Received, self._hold_image)
        self._sinks = {"data": image, "thoughtSignature": signature, "thought_signature": signature}
        self._lifter = Lifter[_Received](self._sinks)
        self._trip = trip
        self._answer: Answer | None = None
        self._held = 0
        self._reader: EventReader | None = None
        self._documents: list[str] = []
        self._documents_count = 0
        self._contents: dict[str, Content] = {}

    def __enter__(self) -> Self:
        """Requests that are made inside the block, by this task, are this exchange's."""
        self._before = _current.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._before is not None
        _current.reset(self._before)
        # A connection that was opened inside the block remembers the context it was opened in for as long as it lives.
        self._sent.clear()
        self._contents.clear()
        self._lifter, self._sinks, self._answer, self._trip = Lifter({}), {}, None, None

    def sending(self, content: Content) -> bytes:
        """Let `content` go out with the request; the SDK is to be given what comes back in its place."""
        token = self._tokens.next()
        self._sent[token.encode()] = content
        self._reads_ahead = self._reads_ahead or content.far
        return base64.b64decode(token)

    def received(self, data: str) -> Content:
        """What `data`, a string of the answer as the SDK sees it, stands for.

        Raises:
            ValueError: it is not base64.
        """
        if data not in self._contents:
            lifted = self._lifter.lifted.get(data)
            if lifted is not None and not lifted.valid:
                raise ValueError("not valid base64")
            self._contents[data] = InMemory(decode(data)) if lifted is None else InPieces(lifted.pieces)
        return self._contents[data]

    def splice(self, request: httpx2.Request, body: bytes) -> httpx2.Request:
        """`request` with everything that is to be sent in its place."""
        segments: list[bytes | Encoded] = []
        start, beginning = 0, b'"' + self._tokens.mark.encode()
        while (quote := body.find(beginning, start)) >= 0:
            end = quote + 1 + Tokens.LENGTH
            segments += [body[start : quote + 1], Encoded(self._sent[body[quote + 1 : end]])]
            start = end
        assert len(segments) == 2 * len(self._sent), "the SDK has left out an image"
        segments.append(body[start:])
        headers = request.headers.copy()
        headers["Content-Length"] = str(sum(map(len, segments)))
        return httpx2.Request(
            request.method, request.url, headers=headers, stream=Spliced(segments), extensions=request.extensions
        )

    async def ready(self) -> None:
        """The request is about to be sent. What comes from afar needs room on its way.

        Raises:
            NoRoom: there is none.
        """
        if self._reads_ahead and self._trip is not None:
            try:
                async with asyncio.timeout(self._trip.room_seconds):
                    await self._trip.journey.share.take(READ_AHEAD_BYTES)
            except TimeoutError as error:
                raise NoRoom("Other answers take all the memory there is; Gemini was not asked.") from error

    async def begin(self, answer: Answer, announced_bytes: int | None) -> None:
        """An answer arrives. Its bytes need room.

        Args:
            answer: its headers are there.
            announced_bytes: how long it says that its body is.
        """
        self._answer = answer
        self._lifter = Lifter(self._sinks)
        self._reader = EventReader() if self._trip is not None else None
        self._documents = []
        self._documents_count = 0
        self._contents = {}
        self._held = 0
        self._holds_images = False
        if self._trip is not None:
            self._trip.journey.received_bytes = 0
            self._trip.journey.enter(Stage.ROOM)
            self._trip.journey.share.become(0)  # the request is out
            # Nearly all of an answer is base64, and some of that are signatures that are not kept. More than usual is
            # not taken beforehand, whatever is announced: the share grows as the bytes arrive.
            expected = self._trip.expected_bytes
            if announced_bytes is not None:
                expected = min(expected, announced_bytes * 3 // 4)
            try:
                async with asyncio.timeout(self._trip.room_seconds):
                    await self._trip.journey.share.take(expected)
            except TimeoutError as error:
                raise NoRoom("Gemini's answer came, but other answers take all the memory there is.") from error
            self._trip.journey.enter(Stage.TRANSFER)

    def lift(self, chunk: bytes) -> bytes:
        """Take out of the next piece of the answer what does not belong into JSON.

        Raises:
            AnswerTooLarge: it holds more images and signatures than any answer does.
        """
        if self._trip is not None:
            self._trip.journey.received_bytes += len(chunk)
        rest = self._lifter.feed(chunk)
        if len(self._lifter.lifted) > MAX_STRINGS_LIFTED:
            raise AnswerTooLarge(f"more than {MAX_STRINGS_LIFTED} images and signatures")
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
        rest = self._lifter.close()
        return rest if self._reader is None else self._found(self._reader.feed(rest) + self._reader.close())

    def _found(self, documents: list[str]) -> bytes:
        self._documents += documents
        self._documents_count += len(documents)
        if self._documents_count > MAX_DOCUMENTS:
            raise AnswerTooLarge(f"more than {MAX_DOCUMENTS:,} events")
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
        if self._trip is not None and self._held > self._trip.journey.share.held:
            self._trip.journey.share.become(self._held)

    @property
    def holds_images(self) -> bool:
        """Whether something of an image has arrived."""
        return self._holds_images

    async def aclose(self) -> None:
        """Let go of the connection, which the SDK does not do where it fails in the middle of a stream."""
        if self._answer is not None:
            await self._answer.aclose()


class LiftingTransport(httpx2.AsyncBaseTransport):
    """Sends and receives for the SDK. Requests outside an exchange go through as they are."""

    def __init__(self, network: Network, max_answer_bytes: int) -> None:
        """
        Args:
            network: the connections.
            max_answer_bytes: the longest body that is read, after unpacking; `AnswerTooLarge` ends a longer one.
        """
        self._network = network
        self._max_answer_bytes = max_answer_bytes

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        exchange = _current.get(None)
        if exchange is not None:
            request = exchange.splice(request, await request.aread())
            await exchange.ready()
        body = _Body(await self._network.send(request), request)
        answer = body.answer
        assert answer.status is not None
        headers = [(name, value) for name, value in answer.headers if name.lower() not in _OF_THE_WIRE]
        if answer.status != httpx2.codes.OK:
            return httpx2.Response(answer.status, headers=headers, content=await _error(body))
        try:
            announced = _announced_bytes(answer.headers)
            if announced is not None and announced > self._max_answer_bytes:
                raise AnswerTooLarge(f"{announced:,} bytes announced")
        except BaseException:
            await answer.aclose()
            raise
        if exchange is not None:
            await exchange.begin(answer, announced)
        return httpx2.Response(answer.status, headers=headers, stream=_Lifted(body, exchange, self._max_answer_bytes))

    async def aclose(self) -> None:
        await self._network.aclose()


class _Received(Decoder):
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


class _Body(httpx2.AsyncByteStream):
    """The body of an answer as it arrives, whichever way the connection takes.

    Raises:
        httpcore2.ReadTimeout: it pauses for longer than the request's extension `timeout` allows as `stall` or, between
            the events of a stream, as `between_events`.
    """

    def __init__(self, answer: Answer, request: httpx2.Request) -> None:
        self.answer = answer
        self._request = request
        limits = request.extensions.get("timeout", {})
        self._stall_seconds = limits.get("stall")
        self._between_seconds = limits.get("between_events", self._stall_seconds)
        # Where an event of a compressed stream ends is not known here.
        self._packed = any(name.lower() == b"content-encoding" for name, _ in answer.headers)

    async def __aiter__(self) -> AsyncGenerator[bytes]:
        limit = self._between_seconds
        async with aclosing(self.answer.aiter_stream()) as chunks:
            while True:
                try:
                    async with asyncio.timeout(limit):
                        chunk = await anext(chunks)
                except StopAsyncIteration:
                    return
                except TimeoutError as exc:
                    raise httpcore2.ReadTimeout("Nothing arrives.") from exc
                within_event = not self._packed and not chunk.endswith((b"\n", b"\r"))
                limit = self._stall_seconds if within_event else self._between_seconds
                yield chunk

    async def unpacked(self) -> AsyncGenerator[bytes]:
        """The same, uncompressed."""
        chunks = aiter(self)
        if self._packed:
            assert self.answer.status is not None
            response = httpx2.Response(
                self.answer.status, headers=self.answer.headers, stream=self, request=self._request
            )
            chunks = response.aiter_bytes()
        async with aclosing(chunks):
            async for chunk in chunks:
                yield chunk
                if self._packed:
                    await asyncio.sleep(0)  # a few bytes can become many pieces


class _Lifted(httpx2.AsyncByteStream):
    """A body as it arrives, unpacked, without what the lifter takes out of it, and within its limits."""

    def __init__(self, body: _Body, exchange: Exchange | None, max_bytes: int) -> None:
        self._body = body
        self._exchange = exchange
        self._max_bytes = max_bytes
        self._rest_bytes = 0
        self._rest_items = 0

    async def __aiter__(self) -> AsyncGenerator[bytes]:
        room = self._max_bytes
        async with aclosing(self._body.unpacked()) as chunks:
            async for chunk in chunks:
                room -= len(chunk)
                if room < 0:
                    raise AnswerTooLarge(f"more than {self._max_bytes:,} bytes")
                if self._exchange is None:
                    self._count(chunk)
                    yield chunk
                    continue
                for piece in _slices(chunk) if _is_json(chunk) else [chunk]:
                    for part in _slices(self._exchange.lift(piece)):
                        if found := self._exchange.read(part):
                            yield found
                        self._count(part)  # afterwards: an image that is whole before there is too much is delivered
                        if len(part) == _SLICE_BYTES:
                            await asyncio.sleep(0)
        if self._exchange and (found := self._exchange.end()):
            yield found

    def _count(self, rest: bytes) -> None:
        self._rest_bytes += len(rest)
        self._rest_items += sum(rest.count(item) * weight for item, weight in _ITEMS.items())
        if self._rest_bytes > MAX_REST_BYTES:
            raise AnswerTooLarge(f"more than {MAX_REST_BYTES:,} bytes that are no image")
        if self._rest_items > MAX_REST_ITEMS:
            raise AnswerTooLarge(f"more than {MAX_REST_ITEMS:,} items that are no image")

    async def aclose(self) -> None:
        await self._body.answer.aclose()


_ITEMS = {b'"': 1, b",": 1, b"{": 1, b"[": 1, b"\n": 8, b"\r": 8}


def _is_json(chunk: bytes) -> bool:
    """Whether it is JSON rather than a piece of an image, and takes longer to read."""
    return _has_many(chunk, b'"') or _has_many(chunk, b"\\")


def _has_many(chunk: bytes, character: bytes) -> bool:
    # `bytes.count` takes as long as everything else that is done with an image; `find` looks at many bytes at once.
    place = -1
    for _ in range(_MANY_QUOTES):
        place = chunk.find(character, place + 1)
        if place < 0:
            return False
    return True


def _slices(data: bytes) -> Iterator[bytes]:
    return (data[start : start + _SLICE_BYTES] for start in range(0, len(data), _SLICE_BYTES))


async def _error(body: _Body) -> bytes:
    """The body of an error. If it is too long, or cannot be read, the status speaks for itself."""
    text = bytearray()
    try:
        async with aclosing(body.unpacked()) as chunks:
            async for chunk in chunks:
                text += chunk
                if len(text) > MAX_ERROR_BYTES:
                    text.clear()
                    break
    except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException, httpx2.DecodingError):
        text.clear()
    finally:
        await body.answer.aclose()
    try:
        json.loads(text)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        pass  # a web page, for instance, which the SDK takes as it is
    except ValueError:
        text.clear()  # a number of thousands of digits
    return text.decode(errors="replace").encode() or b'{"error": {}}'


def _announced_bytes(headers: list[tuple[bytes, bytes]]) -> int | None:
    """How long the body is, by its `Content-Length`.

    Raises:
        httpcore2.RemoteProtocolError: it is no number, or there are several.
    """
    found = {value.strip() for name, value in headers if name.lower() == b"content-length"}
    if not found:
        return None
    value = found.pop()
    if found or not re.fullmatch(rb"[0-9]{1,18}", value):
        raise httpcore2.RemoteProtocolError("The length of the answer is no length.")
    return int(value)
