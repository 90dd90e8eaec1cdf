"""The HTTP transport under the SDK, which keeps images out of the SDK's JSON.

The SDK writes and reads a small JSON text with placeholders. The call's `ImageExchange` knows the image behind each
placeholder. The transport inserts images as base64 while it sends the request, and extracts them while the response
arrives.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing

import httpcore2
import httpx2

from app.gemini.transport.exchange import ImageExchange, ResponseTooLarge, current_exchange
from app.gemini.transport.http import ConnectionPool, RawResponse
from app.gemini.transport.limits import MAX_ERROR_BYTES, MAX_JSON_BYTES, MAX_JSON_ITEMS

_DROPPED_HEADERS = (b"content-encoding", b"content-length", b"content-type", b"transfer-encoding")
"""The SDK does not get these headers: it gets the body decompressed, shortened, and as UTF-8."""

_SLICE_BYTES = 16 * 1024
"""JSON is parsed in slices of this size. Between them the event loop runs other tasks."""

_MANY_QUOTES = 256
"""A piece of a body with this many quotation marks, or backslashes, is JSON and not base64."""

_ITEM_WEIGHTS = {b'"': 1, b",": 1, b"{": 1, b"[": 1, b"\n": 8, b"\r": 8}


class ImageTransport(httpx2.AsyncBaseTransport):
    """Sends and receives for the SDK. A call outside an `ImageExchange` passes unchanged."""

    def __init__(self, pool: ConnectionPool, max_response_bytes: int) -> None:
        """
        Args:
            pool: the connections.
            max_response_bytes: the maximum length of a body after decompression. A longer one raises
                `ResponseTooLarge`.
        """
        self._pool = pool
        self._max_response_bytes = max_response_bytes

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        exchange = current_exchange.get(None)
        if exchange is not None:
            request = exchange.splice(request, await request.aread())
            await exchange.reserve_request()
        response = await self._pool.send(request)
        body = _RawBody(response, request)
        headers = [(name, value) for name, value in response.headers if name.lower() not in _DROPPED_HEADERS]
        if response.status != httpx2.codes.OK:
            return httpx2.Response(response.status, headers=headers, content=await _read_error(body))
        try:
            announced = _content_length(response.headers)
            if announced is not None and announced > self._max_response_bytes:
                raise ResponseTooLarge(f"{announced:,} bytes announced")
        except BaseException:
            await response.aclose()
            raise
        if exchange is not None:
            await exchange.start_response(response, announced)
        stream = _ResponseBody(body, exchange, self._max_response_bytes)
        return httpx2.Response(response.status, headers=headers, stream=stream)

    async def aclose(self) -> None:
        await self._pool.aclose()


class _RawBody(httpx2.AsyncByteStream):
    """The body of a response as it arrives, with a limit for each pause.

    Raises:
        httpcore2.ReadTimeout: a pause is longer than the request's extension `timeout` allows, in seconds:
            `between_events` between the events of a stream, `stall` elsewhere.
    """

    def __init__(self, response: RawResponse, request: httpx2.Request) -> None:
        self.response = response
        self._request = request
        timeouts = request.extensions.get("timeout", {})
        self._stall_seconds = timeouts.get("stall")
        self._between_seconds = timeouts.get("between_events", self._stall_seconds)
        # The end of an event is not visible in a compressed stream.
        self._is_compressed = any(name.lower() == b"content-encoding" for name, _ in response.headers)

    async def __aiter__(self) -> AsyncGenerator[bytes]:
        limit = self._between_seconds
        async with aclosing(self.response.aiter_stream()) as pieces:
            while True:
                try:
                    async with asyncio.timeout(limit):
                        piece = await anext(pieces)
                except StopAsyncIteration:
                    return
                except TimeoutError as exc:
                    raise httpcore2.ReadTimeout("Nothing arrives.") from exc
                within_event = not self._is_compressed and not piece.endswith((b"\n", b"\r"))
                limit = self._stall_seconds if within_event else self._between_seconds
                yield piece

    async def decompressed(self) -> AsyncGenerator[bytes]:
        pieces = aiter(self)
        if self._is_compressed:
            response = httpx2.Response(
                self.response.status, headers=self.response.headers, stream=self, request=self._request
            )
            pieces = response.aiter_bytes()
        async with aclosing(pieces):
            async for piece in pieces:
                yield piece
                if self._is_compressed:
                    await asyncio.sleep(0)  # a few compressed bytes can become many pieces


class _ResponseBody(httpx2.AsyncByteStream):
    """The body that the SDK reads: decompressed, within its limits, and without the images of the exchange."""

    def __init__(self, body: _RawBody, exchange: ImageExchange | None, max_bytes: int) -> None:
        self._body = body
        self._exchange = exchange
        self._max_bytes = max_bytes
        self._json_bytes = 0
        self._json_items = 0

    async def __aiter__(self) -> AsyncGenerator[bytes]:
        received = 0
        async with aclosing(self._body.decompressed()) as pieces:
            async for piece in pieces:
                received += len(piece)
                if received > self._max_bytes:
                    raise ResponseTooLarge(f"more than {self._max_bytes:,} bytes")
                if self._exchange is None:
                    self._count(piece)
                    yield piece
                    continue
                for part in _slices(piece) if _is_json(piece) else [piece]:
                    for extracted in _slices(self._exchange.extract(part)):
                        if event := self._exchange.parse(extracted):
                            yield event
                        self._count(extracted)  # after parsing, so that an image in front of the excess is delivered
                        if len(extracted) == _SLICE_BYTES:
                            await asyncio.sleep(0)
        if self._exchange and (event := self._exchange.end()):
            yield event

    def _count(self, text: bytes) -> None:
        self._json_bytes += len(text)
        self._json_items += sum(text.count(item) * weight for item, weight in _ITEM_WEIGHTS.items())
        if self._json_bytes > MAX_JSON_BYTES:
            raise ResponseTooLarge(f"more than {MAX_JSON_BYTES:,} bytes that are no image")
        if self._json_items > MAX_JSON_ITEMS:
            raise ResponseTooLarge(f"more than {MAX_JSON_ITEMS:,} items that are no image")

    async def aclose(self) -> None:
        await self._body.response.aclose()


def _is_json(piece: bytes) -> bool:
    """Return whether `piece` is mostly JSON, which takes longer to parse than base64."""
    return _has_many(piece, b'"') or _has_many(piece, b"\\")


def _has_many(piece: bytes, character: bytes) -> bool:
    # `bytes.count` would take as long as the whole extraction of an image. `find` compares many bytes at once.
    position = -1
    for _ in range(_MANY_QUOTES):
        position = piece.find(character, position + 1)
        if position < 0:
            return False
    return True


def _slices(data: bytes) -> Iterator[bytes]:
    return (data[start : start + _SLICE_BYTES] for start in range(0, len(data), _SLICE_BYTES))


async def _read_error(body: _RawBody) -> bytes:
    """Return the body of an error. Return an empty error if the body is too long or cannot be read."""
    text = bytearray()
    try:
        async with aclosing(body.decompressed()) as pieces:
            async for piece in pieces:
                text += piece
                if len(text) > MAX_ERROR_BYTES:
                    text.clear()
                    break
    except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException, httpx2.DecodingError):
        text.clear()
    finally:
        await body.response.aclose()
    try:
        json.loads(text)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        pass  # a web page for example, which the SDK accepts
    except ValueError:
        text.clear()  # a number with thousands of digits
    return text.decode(errors="replace").encode() or b'{"error": {}}'


def _content_length(headers: list[tuple[bytes, bytes]]) -> int | None:
    """Return the length of the body according to `Content-Length`, or None without that header.

    Raises:
        httpcore2.RemoteProtocolError: it is not a number of at most 18 digits, or there are several.
    """
    lengths = {value.strip() for name, value in headers if name.lower() == b"content-length"}
    if not lengths:
        return None
    length = lengths.pop()
    if lengths or not length.isdigit() or len(length) > 18:
        raise httpcore2.RemoteProtocolError("The Content-Length of the response is not valid.")
    return int(length)
