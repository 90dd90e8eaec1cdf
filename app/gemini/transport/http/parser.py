"""The parser of one response. It works on bytes alone, so that a fuzzer can test it."""

from collections import deque

import httpcore2
import httptools

MAX_HEAD_BYTES = 64 * 1024
"""The maximum length of the headers of a response, and of the trailers behind its body."""


class ResponseParser:
    """Parse one response from pieces of any length.

    httptools does the parsing. This class skips interim responses, limits headers and trailers, and decides whether the
    connection can carry another request.
    """

    def __init__(self) -> None:
        self.status: int | None = None
        """The status code, once the final response's headers are complete."""
        self.headers: list[tuple[bytes, bytes]] = []
        self.body: deque[bytes] = deque()
        """The pieces of the body that have arrived and were not yet taken."""
        self.is_complete = False
        """True once the last byte of the response has arrived."""
        self.allows_reuse = False
        """True if the response is complete, allows another request, and nothing has arrived behind it."""
        self._parser = httptools.HttpResponseParser(self)
        self._header_bytes = 0
        self._framing_bytes = 0  # received since the last piece of the body, or since the beginning

    def feed(self, data: memoryview) -> None:
        """Parse the next piece.

        Raises:
            httpcore2.RemoteProtocolError: it is not HTTP, or its headers or trailers are too long.
        """
        self._framing_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            if not self.is_complete:
                raise httpcore2.RemoteProtocolError(type(exc).__name__) from exc
            self.allows_reuse = False  # other bytes follow the response
        # httptools reports a header or a chunk when it is complete. Endless ones are found by this count.
        if self._framing_bytes > MAX_HEAD_BYTES and not self.is_complete:
            raise _too_long()

    def feed_eof(self) -> None:
        """The server has closed the connection. This completes a response that has no other end.

        Raises:
            httpcore2.RemoteProtocolError: the response is not complete.
        """
        names = {name.lower() for name, _ in self.headers}
        if self.status is None or names & {b"content-length", b"transfer-encoding"}:
            raise httpcore2.RemoteProtocolError("The connection ended before the response was complete.")
        self.is_complete = True

    # httptools calls these methods.

    def on_message_begin(self) -> None:
        self.allows_reuse = False  # a second response to one request must never reach another request

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > MAX_HEAD_BYTES:
            raise _too_long()
        if self.status is None:
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if self.status is not None:
            return  # a surplus response
        if 100 <= status < 200:  # an interim response; the final one follows
            self.headers.clear()
        else:
            self.status = status
            self._framing_bytes = 0

    def on_body(self, body: bytes) -> None:
        self._framing_bytes = 0
        if not self.is_complete:
            self.body.append(body)

    def on_message_complete(self) -> None:
        if self.status is not None and not self.is_complete:
            self.is_complete = True
            # Persistence is part of HTTP/1.1 only: RFC 9112 (9.3) lets a client close every older connection.
            self.allows_reuse = self._parser.get_http_version() == "1.1" and self._parser.should_keep_alive()


def _too_long() -> httpcore2.RemoteProtocolError:
    return httpcore2.RemoteProtocolError("The headers of the response are too long.")
