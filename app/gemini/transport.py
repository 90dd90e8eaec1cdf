"""The transport under the SDK: images go past the SDK, on the way out and on the way back.

The SDK writes and reads a small JSON text with tokens in it. What a token stands for is known to the `Exchange` of the
call; it is put in as base64 while the request is sent, and taken out while the answer arrives.
"""

import base64
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import httpx2

from app.lifting import Content, Decoder, Encoded, InMemory, InPieces, Lifter, Tokens, decode

_current: ContextVar["Exchange"] = ContextVar("exchange")


class AnswerTooLarge(Exception):
    """Gemini sends more than we are willing to hold."""


class Exchange:
    """What one call carries beside its JSON, for as long as the block around the call lasts.

    Each attempt of the call sends the same again, from its beginning, and forgets what an earlier one has received.
    """

    def __init__(self, *, keep_signatures: bool = False) -> None:
        """
        Args:
            keep_signatures: hold thought signatures too, which are often larger than the image. Else they are dropped
                while they arrive.
        """
        self._tokens = Tokens()
        self._sent: list[tuple[bytes, Content]] = []
        sinks = {"data": _Received, **dict.fromkeys(("thoughtSignature", "thought_signature"), _Received)}
        self._sinks = sinks if keep_signatures else {**sinks, "thoughtSignature": None, "thought_signature": None}
        self._lifter = Lifter[_Received](self._sinks)

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """Requests that are made inside the block, by this task, are this exchange's."""
        before = _current.set(self)
        try:
            yield
        finally:
            _current.reset(before)

    def sending(self, content: Content) -> bytes:
        """Let `content` go out with the request; the SDK is to be given what comes back in its place."""
        token = self._tokens.next()
        self._sent.append((token.encode(), content))
        return base64.b64decode(token)

    def received(self, data: str) -> Content:
        """What `data`, a string of the answer as the SDK sees it, stands for.

        Raises:
            ValueError: it is not base64.
        """
        lifted = self._lifter.lifted.get(data)
        if lifted is None:
            return InMemory(decode(data))
        if not lifted.valid:
            raise ValueError("not valid base64")
        return InPieces(lifted.pieces)

    def splice(self, request: httpx2.Request, body: bytes) -> httpx2.Request:
        """`request` with everything that is to be sent in its place."""
        segments: list[bytes | Encoded] = []
        for token, content in self._sent:
            before, found, body = body.partition(b'"' + token + b'"')
            assert found, "the SDK has left out an image"
            segments += [before + b'"', Encoded(content)]
            body = b'"' + body
        segments.append(body)
        headers = request.headers.copy()
        headers["Content-Length"] = str(sum(map(len, segments)))
        return httpx2.Request(
            request.method, request.url, headers=headers, stream=_Spliced(segments), extensions=request.extensions
        )

    def lift(self) -> "Lifter[_Received]":
        """A lifter for a new answer."""
        self._lifter = Lifter(self._sinks)
        return self._lifter


class LiftingTransport(httpx2.AsyncBaseTransport):
    """Sends and receives for the SDK. Requests outside an exchange go through as they are."""

    def __init__(self, client: httpx2.AsyncClient, max_answer_bytes: int) -> None:
        """
        Args:
            client: does the sending; it knows about proxies and connections.
            max_answer_bytes: the longest body that is read, after unpacking; `AnswerTooLarge` ends a longer one.
        """
        self._client = client
        self._max_answer_bytes = max_answer_bytes

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        exchange = _current.get(None)
        if exchange is not None:
            request = exchange.splice(request, await request.aread())
        response = await self._client.send(request, stream=True)
        lifter = exchange.lift() if exchange is not None and response.status_code == httpx2.codes.OK else None
        headers = [
            (name, value)
            for name, value in response.headers.raw
            if name.lower() not in (b"content-encoding", b"content-length", b"transfer-encoding")
        ]
        return httpx2.Response(
            response.status_code,
            headers=headers,
            stream=_Lifted(response, lifter, self._max_answer_bytes),
            extensions=response.extensions,
        )

    async def aclose(self) -> None:
        await self._client.aclose()


class _Received(Decoder):
    """A string of the answer, decoded while it arrives."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        super().__init__(self.pieces.append)


class _Spliced(httpx2.AsyncByteStream):
    def __init__(self, segments: list[bytes | Encoded]) -> None:
        self._segments = segments

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for segment in self._segments:
            if isinstance(segment, bytes):
                yield segment
            else:
                async for piece in segment:
                    yield piece


class _Lifted(httpx2.AsyncByteStream):
    """A body as it arrives, unpacked, without what the lifter takes out of it."""

    def __init__(self, response: httpx2.Response, lifter: Lifter[_Received] | None, max_bytes: int) -> None:
        self._response = response
        self._lifter = lifter
        self._max_bytes = max_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        room = self._max_bytes
        async for chunk in self._response.aiter_bytes():
            room -= len(chunk)
            if room < 0:
                raise AnswerTooLarge(f"more than {self._max_bytes:,} bytes")
            if rest := self._lifter.feed(chunk) if self._lifter else chunk:
                yield rest
        if self._lifter and (rest := self._lifter.close()):
            yield rest

    async def aclose(self) -> None:
        await self._response.aclose()
