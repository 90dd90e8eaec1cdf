"""The transport under the SDK: images go past the SDK, on the way out and on the way back.

The SDK writes and reads a small JSON text with tokens in it. What a token stands for is known to the `Exchange` of the
call; it is put in as base64 while the request is sent, and taken out while the answer arrives.
"""

import asyncio
import base64
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from contextvars import ContextVar, Token
from dataclasses import dataclass
from functools import partial
from typing import Self

import httpx2

from app.gemini.eventstream import EventReader
from app.gemini.network import Answer, Network
from app.gemini.splicing import READ_AHEAD_BYTES, Spliced
from app.journey import Journey, Stage
from app.lifting import Content, Decoder, Encoded, InMemory, InPieces, Lifter, Tokens, decode

_OF_THE_WIRE = (b"content-encoding", b"content-length", b"transfer-encoding")

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
        received = partial(_Received, self._hold)
        signature = received if keep_signatures else None
        self._sinks = {"data": received, "thoughtSignature": signature, "thought_signature": signature}
        self._lifter = Lifter[_Received](self._sinks)
        self._trip = trip
        self._answer: Answer | None = None
        self._held = 0
        self._events: EventReader | None = None  # for a stream
        self._documents: list[str] = []
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

    async def begin(self, answer: Answer) -> None:
        """An answer arrives. Its bytes need room."""
        self._answer = answer
        self._lifter = Lifter(self._sinks)
        self._events = EventReader() if self._trip is not None and self._trip.journey.listened_to else None
        self._documents = []
        self._contents = {}
        self._held = 0
        if self._trip is not None:
            self._trip.journey.received_bytes = 0
            self._trip.journey.enter(Stage.ROOM)
            self._trip.journey.share.become(0)  # the request is out
            announced = next((value for name, value in answer.headers if name.lower() == b"content-length"), None)
            # Nearly all of an answer is base64, and some of that are signatures that are not kept.
            expected = int(announced) * 3 // 4 if announced is not None else self._trip.expected_bytes
            try:
                async with asyncio.timeout(self._trip.room_seconds):
                    await self._trip.journey.share.take(expected)
            except TimeoutError as error:
                raise NoRoom("Gemini's answer came, but other answers take all the memory there is.") from error
            self._trip.journey.enter(Stage.TRANSFER)

    def lift(self, chunk: bytes) -> bytes:
        """Take out of the next piece of the answer what does not belong into JSON."""
        if self._trip is not None:
            self._trip.journey.received_bytes += len(chunk)
        rest = self._lifter.feed(chunk)
        return self._as_events(self._events.feed(rest)) if self._events else rest

    def end(self) -> bytes:
        """The answer has ended; what was held back of it comes back."""
        rest = self._lifter.close()
        return self._as_events(self._events.feed(rest) + self._events.close()) if self._events else rest

    def _as_events(self, documents: list[str]) -> bytes:
        """The SDK's reader stumbles over whatever is no data."""
        self._documents += documents
        return "".join(f"data: {document}\n\n" for document in documents).encode()

    def documents(self) -> list[str]:
        """The JSON of the events that have arrived since the last time."""
        documents, self._documents = self._documents, []
        return documents

    def _hold(self, count: int) -> None:
        """So many bytes more are kept. What was expected may have been too little."""
        self._held += count
        if self._trip is not None and self._held > self._trip.journey.share.held:
            self._trip.journey.share.become(self._held)

    @property
    def arriving(self) -> bool:
        """Whether an answer has begun, which is when something has been done, and billed perhaps."""
        return self._answer is not None

    @property
    def holds_images(self) -> bool:
        return self._held > 0

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
        answer = await self._network.send(request)
        if answer.status != httpx2.codes.OK:
            exchange = None
        if exchange is not None:
            await exchange.begin(answer)
        # The body is unpacked on the way: its length is not what these headers say, and it is not compressed any more.
        headers = [(name, value) for name, value in answer.headers if name.lower() not in _OF_THE_WIRE]
        stream = _Lifted(answer, request, exchange, self._max_answer_bytes)
        assert answer.status is not None
        return httpx2.Response(answer.status, headers=headers, stream=stream)

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


class _Lifted(httpx2.AsyncByteStream):
    """A body as it arrives, unpacked, without what the lifter takes out of it."""

    def __init__(self, answer: Answer, request: httpx2.Request, exchange: Exchange | None, max_bytes: int) -> None:
        self._answer = answer
        self._request = request
        self._exchange = exchange
        self._max_bytes = max_bytes

    async def __aiter__(self) -> AsyncGenerator[bytes]:
        room = self._max_bytes
        async with aclosing(self._unpacked()) as chunks:
            async for chunk in chunks:
                room -= len(chunk)
                if room < 0:
                    raise AnswerTooLarge(f"more than {self._max_bytes:,} bytes")
                if rest := self._exchange.lift(chunk) if self._exchange else chunk:
                    yield rest
        if self._exchange and (rest := self._exchange.end()):
            yield rest

    def _unpacked(self) -> AsyncGenerator[bytes]:
        if all(name.lower() != b"content-encoding" for name, _ in self._answer.headers):
            return self._answer.aiter_stream()
        assert self._answer.status is not None
        packed = httpx2.Response(
            self._answer.status, headers=self._answer.headers, stream=_Body(self._answer), request=self._request
        )
        return packed.aiter_bytes()

    async def aclose(self) -> None:
        await self._answer.aclose()


class _Body(httpx2.AsyncByteStream):
    """A body as the network hands it on."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    async def __aiter__(self) -> AsyncGenerator[bytes]:
        async with aclosing(self._answer.aiter_stream()) as chunks:
            async for chunk in chunks:
                yield chunk
