"""The HTTP transport under the SDK, which keeps images out of the SDK's JSON.

The SDK writes and reads a small JSON text with placeholders. The call's `ImageExchange` knows the image behind each
placeholder: it is inserted as base64 while the request is sent, and extracted while the response arrives.
"""

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing

import httpcore2
import httpx2

from app.gemini.transport.exchange import ImageExchange, ResponseTooLarge, current_exchange
from app.gemini.transport.http import ConnectionPool, RawResponse
from app.gemini.transport.limits import MAX_ERROR_BYTES, MAX_JSON_BYTES, MAX_JSON_ITEMS

_OF_THE_WIRE = (b"content-encoding", b"content-length", b"content-type", b"transfer-encoding")
"""Headers that are not passed on: the body is unpacked here, and it is read as UTF-8 whatever charset is named."""


_SLICE_BYTES = 16 * 1024
"""JSON is read in slices of this size, and others get a turn on the event loop between them."""

_MANY_QUOTES = 256
"""A piece of a body with as many of them, or of backslashes, holds JSON rather than images."""


class ImageTransport(httpx2.AsyncBaseTransport):
    """Sends and receives for the SDK. Requests outside an exchange go through as they are."""

    def __init__(self, network: ConnectionPool, max_answer_bytes: int) -> None:
        """
        Args:
            network: the connections.
            max_answer_bytes: the longest body that is read, after unpacking; `ResponseTooLarge` ends a longer one.
        """
        self._network = network
        self._max_answer_bytes = max_answer_bytes

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        exchange = current_exchange.get(None)
        if exchange is not None:
            request = exchange.splice(request, await request.aread())
            await exchange.ready()
        body = _RawBody(await self._network.send(request), request)
        answer = body.answer
        headers = [(name, value) for name, value in answer.headers if name.lower() not in _OF_THE_WIRE]
        if answer.status != httpx2.codes.OK:
            return httpx2.Response(answer.status, headers=headers, content=await _error(body))
        try:
            announced = _announced_bytes(answer.headers)
            if announced is not None and announced > self._max_answer_bytes:
                raise ResponseTooLarge(f"{announced:,} bytes announced")
        except BaseException:
            await answer.aclose()
            raise
        if exchange is not None:
            await exchange.begin(answer, announced)
        return httpx2.Response(
            answer.status, headers=headers, stream=_ResponseBody(body, exchange, self._max_answer_bytes)
        )

    async def aclose(self) -> None:
        await self._network.aclose()


class _RawBody(httpx2.AsyncByteStream):
    """The body of an answer as it arrives, whichever way the connection takes.

    Raises:
        httpcore2.ReadTimeout: it pauses for longer than the request's extension `timeout` allows as `stall` or, between
            the events of a stream, as `between_events`.
    """

    def __init__(self, answer: RawResponse, request: httpx2.Request) -> None:
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
            response = httpx2.Response(
                self.answer.status, headers=self.answer.headers, stream=self, request=self._request
            )
            chunks = response.aiter_bytes()
        async with aclosing(chunks):
            async for chunk in chunks:
                yield chunk
                if self._packed:
                    await asyncio.sleep(0)  # a few bytes can become many pieces


class _ResponseBody(httpx2.AsyncByteStream):
    """A body as it arrives, unpacked, without what the lifter takes out of it, and within its limits."""

    def __init__(self, body: _RawBody, exchange: ImageExchange | None, max_bytes: int) -> None:
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
                    raise ResponseTooLarge(f"more than {self._max_bytes:,} bytes")
                if self._exchange is None:
                    self._count(chunk)
                    yield chunk
                    continue
                for piece in _slices(chunk) if _is_json(chunk) else [chunk]:
                    for part in _slices(self._exchange.extract(piece)):
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
        if self._rest_bytes > MAX_JSON_BYTES:
            raise ResponseTooLarge(f"more than {MAX_JSON_BYTES:,} bytes that are no image")
        if self._rest_items > MAX_JSON_ITEMS:
            raise ResponseTooLarge(f"more than {MAX_JSON_ITEMS:,} items that are no image")

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


async def _error(body: _RawBody) -> bytes:
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
