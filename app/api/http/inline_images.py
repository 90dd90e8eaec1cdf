"""Decoding reference images inside a JSON body: base64, or data URLs of base64."""

from app.lib.base64_json import Base64Decoder

_MAX_DECLARATION_BYTES = 32 * 1024
"""The longest part of a data URL before its comma. Some clients put a percent-encoded file name there."""

_BROKEN_LINES = b"\t\r\n"
_CONTROLS = bytes(range(0x21))
"""Bytes that browsers remove: `_BROKEN_LINES` anywhere in a URL, `_CONTROLS` at its start."""


class InlineImage:
    """Decoder for a `data` or `url` field: base64, or a data URL of base64.

    Data URLs are read as browsers do (WHATWG Fetch, "data: URL processor"; WHATWG Infra, "forgiving-base64 decode").
    """

    def __init__(self) -> None:
        self.data = bytearray()
        self.is_data_url = False
        self._problem: str | None = None
        self._decoder = Base64Decoder(self.data.extend)
        self._start: bytearray | None = bytearray()  # `None` as soon as the format is known
        self._cut_escape = b""
        self._in_fragment = False

    @classmethod
    def of(cls, text: str) -> "InlineImage":
        """Decode a complete text."""
        image = cls()
        image.feed(text.encode(errors="replace"))
        image.close()
        return image

    @property
    def problem(self) -> str | None:
        """Why the field cannot be decoded, without its subject: "is not valid base64"."""
        return self._problem or (None if self._decoder.is_valid else "is not valid base64")

    @property
    def is_empty(self) -> bool:
        return not self._start and self._decoder.is_empty and not self.is_data_url

    def feed(self, text: bytes) -> None:
        if self._problem is not None:
            return
        if self._start is None:
            self._decode(text)
            return
        self._start += text
        if not self.is_data_url or b"," in text or len(self._start) > _MAX_DECLARATION_BYTES:
            self._decide()

    def close(self) -> None:
        if self._start is not None and self._problem is None:
            self._decide(at_end=True)
        if self._cut_escape and not self._in_fragment:
            self._decoder.feed(self._cut_escape)
        self._decoder.close()

    def _decide(self, *, at_end: bool = False) -> None:
        """Determine the format, if enough text has arrived: base64, or a data URL of base64."""
        assert self._start is not None
        text = bytes(self._start).translate(None, _BROKEN_LINES).lstrip(_CONTROLS)
        self.is_data_url = text[:5].lower() == b"data:"
        if not self.is_data_url:
            if at_end or (text and not b"data:".startswith(text.lower())):
                self._start = None
                self._decoder.feed(text)
            else:
                self._start = bytearray(text)
            return
        declaration, comma, body = text.partition(b",")
        if len(declaration) > _MAX_DECLARATION_BYTES:
            self._problem = f"is a data URL with more than {_MAX_DECLARATION_BYTES:,} bytes before its comma"
        elif b"#" in declaration or (at_end and not comma):
            self._problem = "is a data URL without a comma"
        elif comma and not _declares_base64(declaration):
            self._problem = "is a data URL, but not one of base64: there is no ;base64 before its comma"
        elif comma:
            self._start = None
            self._decode(body)

    def _decode(self, text: bytes) -> None:
        """Decode more base64. In a data URL it can be percent-encoded, and it ends at a fragment (`#`)."""
        if not self.is_data_url:
            self._decoder.feed(text)
            return
        if self._in_fragment:
            return
        text, fragment, _ = (self._cut_escape + text).partition(b"#")
        self._in_fragment = bool(fragment)
        self._cut_escape = b""
        if b"%" in text:
            text = text.translate(None, _BROKEN_LINES)
            cut = -1 if fragment else text.find(b"%", max(0, len(text) - 2))
            if cut >= 0:
                text, self._cut_escape = text[:cut], text[cut:]
            text = _percent_decoded(text)
        self._decoder.feed(text)


def _declares_base64(declaration: bytes) -> bool:
    declaration = declaration.rstrip(b" \f").lower()
    return declaration.endswith(b"base64") and declaration.removesuffix(b"base64").rstrip(b" ").endswith(b";")


def _percent_decoded(text: bytes) -> bytes:
    """Decode percent-encoding. Return text with invalid escapes unchanged; it is not valid base64 either."""
    if b"\\" in text:
        return text
    try:
        return text.replace(b"%", b"\\x").decode("unicode_escape").encode("latin-1")
    except ValueError:
        return text
