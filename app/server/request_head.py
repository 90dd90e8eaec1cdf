"""The head of a request, collected up to its blank line before the parser gets it in one piece.

docs/decisions/0005 gives the reasons.
"""

from app.domain.errors import HeaderTooLarge, InvalidHttp


class RequestHead:
    """Collects the head of one request after the other and limits its length."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = bytearray()
        self._empty_line_bytes = 0

    def skip_empty_lines(self, data: bytes) -> bytes:
        """Return `data` without the empty lines in front of a request. Some clients send them after a body.

        Raises:
            HeaderTooLarge: there are more empty lines than the bytes of a head.
        """
        if self._bytes:
            return data
        rest = data.lstrip(b"\r\n")
        self._empty_line_bytes += len(data) - len(rest)
        if self._empty_line_bytes > self._max_bytes:
            raise self.too_large()
        return rest

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Add received bytes.

        Returns:
            The head without its `Upgrade` fields, or nothing if it is not complete yet; and the bytes after the head.

        Raises:
            InvalidHttp: the first byte is not a letter. It is probably TLS, whose client would wait for an answer.
            HeaderTooLarge: the head is too long.
        """
        search_start = max(0, len(self._bytes) - 2)
        self._bytes += data
        if not self._bytes[:1].isalpha():
            raise InvalidHttp("The request is not valid HTTP.")
        length = _end_of_head(self._bytes, search_start)
        if (length or len(self._bytes)) > self._max_bytes:
            raise self.too_large()
        if not length:
            return b"", b""
        head, rest = bytes(self._bytes[:length]), bytes(self._bytes[length:])
        self.clear()
        return without_upgrade(head), rest

    def clear(self) -> None:
        self._bytes.clear()
        self._empty_line_bytes = 0

    def too_large(self) -> HeaderTooLarge:
        return HeaderTooLarge(f"The head of a request may have at most {self._max_bytes:,} bytes.")


def _end_of_head(head: bytearray, start: int) -> int:
    """Return the end of the first blank line that ends after `start`; 0 if there is none yet.

    Lines that end in LF alone count too. The parser then gets them at once and refuses them.
    """
    ends = [(head.find(blank, start), len(blank)) for blank in (b"\n\r\n", b"\n\n")]
    return min((found + length for found, length in ends if found >= 0), default=0)


def require_unambiguous(headers: list[tuple[bytes, bytes]], http_version: str) -> None:
    """Refuse a head that the parser accepts but other servers could read differently.

    Raises:
        InvalidHttp: the head has another version of HTTP, another transfer coding than chunked, or two hosts.
    """
    if http_version not in ("1.0", "1.1"):
        raise InvalidHttp("The version of HTTP must be 1.0 or 1.1.")
    codings = [value.lower() for name, value in headers if name == b"transfer-encoding"]
    if codings not in ([], [b"chunked"]):
        raise InvalidHttp("The only supported transfer coding is chunked.")
    if [name for name, _ in headers].count(b"host") > 1:
        raise InvalidHttp("A request may have only one Host field.")


def without_upgrade(head: bytes) -> bytes:
    """Return the head without its `Upgrade` fields, which a server may ignore (RFC 9110, section 7.8).

    With such a field, the parser would end the request after the head and read the body as the next request.
    """
    if b"\r\nupgrade:" not in head.lower():
        return head
    lines = head.split(b"\r\n")
    return b"\r\n".join(line for line in lines if not line.lower().startswith(b"upgrade:"))
