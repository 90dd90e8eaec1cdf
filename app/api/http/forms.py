"""Multipart forms: read as a whole or refused, their text decoded strictly, fields that are empty left out."""

import errno
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass

from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from app.api.http.uploads import RETRY_AFTER_SECONDS
from app.domain.errors import FieldError, InvalidForm, StorageError, StorageFull, StorageUnavailable, TooLarge

CODECS = {
    "utf8": "utf-8-sig",  # a byte order mark is no part of the text
    "iso88591": "cp1252",
    "latin1": "cp1252",
    "windows1252": "cp1252",
    "cp1252": "cp1252",
    "gb18030": "gb18030",
    "gbk": "gb18030",
    "gb2312": "gb18030",
    "cp936": "gb18030",
    "euccn": "gb18030",
    "big5": "cp950",
    "cp950": "cp950",
    "big5hkscs": "big5hkscs",
    "shiftjis": "cp932",
    "sjis": "cp932",
    "windows31j": "cp932",
    "cp932": "cp932",
    "euckr": "cp949",
    "ksc56011987": "cp949",
    "windows949": "cp949",
    "cp949": "cp949",
}
"""Python's codecs for the charsets that a form may declare, by their names in lower case without punctuation.

As browsers do (https://encoding.spec.whatwg.org/#names-and-labels), ISO-8859-1 is read as Windows-1252, and the East
Asian charsets as the larger ones that Windows has made of them. No other codec is used: some of Python's take quadratic
time.
"""

UTF_8 = CODECS["utf8"]

MAX_TEXT_BYTES = 4 * 1024 * 1024
"""Bytes of text in one request: all text fields of a form together, or a JSON body without its images. Texts of 200,000
characters take up to six times as many bytes in JSON."""

_MAX_PARAMETERS = 20
"""Of a part's header, or of the form's type. Reading them takes Python a microsecond each."""

_PIECE_BYTES = 64 * 1024
"""So much of a form is given to the parser at once."""

_UNENCODED = {"", "7bit", "8bit", "binary"}

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True, slots=True)
class _Part:
    name: bytes
    headers: Headers
    content: bytes | UploadFile

    def header(self, name: str) -> tuple[str, dict[bytes, bytes]]:
        value, options = parse_options_header(self.headers.get(name))
        return value.decode("latin-1"), options


async def read_form(
    headers: Headers, stream: AsyncGenerator[bytes], *, max_files: float, max_fields: float, max_part_size: int
) -> FormData:
    """Read a multipart form. A body of another type is left unread, as if it were an empty one: the route refuses it.

    Text is decoded in the charset of its part or else in that of the form (its field `_charset_`, RFC 7578 §4.6, or
    else the parameter of its type), if that is one of `CODECS`, and otherwise in UTF-8.

    Raises:
        InvalidForm: it ends before its closing boundary, is no form, or holds text that cannot be decoded.
        TooLarge: one of the limits is exceeded.
        StorageError: a file cannot be written to the temporary folder.
    """
    declared = headers.get("content-type", "")
    if declared.count(";") > _MAX_PARAMETERS:
        raise InvalidForm("Content-Type has too many parameters.")
    type_, options = parse_options_header(declared)
    if type_ != b"multipart/form-data":
        return FormData()
    if not options.get(b"boundary"):
        raise InvalidForm("Content-Type names no boundary.")
    parser = _Parser(options[b"boundary"], stream, max_files, max_fields, max_part_size)
    try:
        await parser.parse()
    except MultiPartException as error:
        if error.message.startswith(("Too many", "Part exceeded")):
            raise TooLarge("The form has too many parts, or a text field that is too long.") from error
        raise InvalidForm("The body is not a well-formed multipart form.") from error
    except OSError as error:
        raise _storage_error(error) from error
    try:
        return _form(parser.parts, _codec(options, UTF_8))
    except BaseException:
        parser.close()
        raise


class _Parser(MultiPartParser):
    """Starlette's parser, which says what each part's header is, and notices that the end is missing."""

    spool_max_size = 8 * 1024 * 1024
    """Bytes per file that stay in memory, which `UploadLimiter` limits. Larger files go to disk, which takes a thread
    for each piece and a third more CPU time."""

    def __init__(
        self,
        boundary: bytes,
        stream: AsyncGenerator[bytes],
        max_files: float,
        max_fields: float,
        max_part_size: int,
    ) -> None:
        # Whatever charset is declared, Starlette reads names as ISO-8859-1, from which their bytes can be had back.
        quoted = boundary.decode("latin-1").replace("\\", "\\\\").replace('"', '\\"')
        headers = Headers({"Content-Type": f'multipart/form-data; charset=iso-8859-1; boundary="{quoted}"'})
        super().__init__(
            headers,
            self._checked(stream, b"\r\n--" + boundary),
            max_files=max_files,
            max_fields=max_fields,
            max_part_size=max_part_size,
        )
        self.parts: list[_Part] = []
        self._ended = False
        self._found = False
        self._text_bytes = 0

    async def _checked(self, stream: AsyncGenerator[bytes], delimiter: bytes) -> AsyncGenerator[bytes]:
        """The form, piece by piece. What the parser would take too long for is refused before it gets there."""
        delimiters = 0
        async for piece in _from_first(stream, delimiter):
            # The parser looks at each of them for itself, also where something else follows.
            delimiters += piece.count(delimiter)
            if delimiters > self.max_files + self.max_fields:
                raise MultiPartException("Too many parts.")
            self._found = False
            yield piece
            # It says nothing about spaces behind a boundary, and looks at each of them, too.
            if len(piece) == _PIECE_BYTES and not self._found and not self._ended:
                raise MultiPartException("Nothing but spaces behind a boundary.")
        if not self._ended:
            raise InvalidForm("The form ends before its closing boundary: not all of it has arrived.")

    def on_part_begin(self) -> None:
        super().on_part_begin()
        self._found = True

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        super().on_part_data(data, start, end)
        self._found = True
        if self._current_part.file is None:
            self._text_bytes += end - start
            if self._text_bytes > MAX_TEXT_BYTES:
                raise MultiPartException("Too many bytes of text.")

    def on_header_end(self) -> None:
        if self._current_partial_header_value.count(b";") > _MAX_PARAMETERS:
            raise MultiPartException("A header has more parameters than any has.")
        super().on_header_end()

    def on_part_end(self) -> None:
        part = self._current_part
        content = bytes(part.data) if part.file is None else part.file
        if part.file is not None:
            self._file_parts_to_finish.append(part)
        self.parts.append(_Part(part.field_name.encode("latin-1"), Headers(raw=part.item_headers), content))

    def on_end(self) -> None:
        self._ended = True

    def close(self) -> None:
        for file in self._files_to_close_on_error:
            file.close()


async def _from_first(stream: AsyncGenerator[bytes], delimiter: bytes) -> AsyncGenerator[bytes]:
    """Pieces of a form from its first boundary on: what stands before that counts for nothing (RFC 2046 §5.1.1)."""
    start = b"\r\n"
    async for chunk in stream:
        start += chunk
        if delimiter in start:
            for piece in _pieces(start[start.index(delimiter) + 2 :]):
                yield piece
            break
        start = start[-len(delimiter) :]
    async for chunk in stream:
        for piece in _pieces(chunk):
            yield piece


def _pieces(chunk: bytes) -> Iterator[bytes]:
    for start in range(0, len(chunk), _PIECE_BYTES):
        yield chunk[start : start + _PIECE_BYTES]


def _form(parts: list[_Part], codec: str) -> FormData:
    """The fields of a form whose type declares `codec`."""
    declared = next((part.content for part in parts if part.name == b"_charset_"), b"")
    if isinstance(declared, bytes):
        codec = CODECS.get(_label(declared), codec)
    fields: dict[str, list[str | UploadFile]] = defaultdict(list)
    wrong: list[FieldError] = []
    for part in parts:
        if part.name == b"_charset_":
            continue
        try:
            name = _decoded(part.name, codec)
        except ValueError as error:
            raise InvalidForm(
                "The name of a field is not text in UTF-8, or in the charset that it declares."
            ) from error
        try:
            fields[name].append(_content(part, codec))
        except ValueError as error:
            wrong.append(FieldError(name[:200], str(error)))
    if wrong:
        raise InvalidForm("; ".join(f"{error.field}: {error.message}" for error in wrong), wrong)
    for name in [name for name, values in fields.items() if not any(map(_given, values))]:
        _close(fields.pop(name))
    return FormData([(name, one) for name, values in fields.items() for one in values])


def _close(values: list[str | UploadFile]) -> None:
    for file in values:
        if isinstance(file, UploadFile):
            file.file.close()


def _content(part: _Part, codec: str) -> str | UploadFile:
    """What a part holds. A file input that nobody has used is a file without a name.

    Raises:
        ValueError: what is wrong with it.
    """
    encoding, _ = part.header("content-transfer-encoding")
    if encoding not in _UNENCODED:
        raise ValueError("has a Content-Transfer-Encoding; send it unencoded")
    if isinstance(part.content, UploadFile):
        part.content.filename = part.content.filename or None
        return part.content
    _, options = part.header("content-type")
    codec = _codec(options, codec if b"charset" not in options else UTF_8)
    try:
        return _decoded(part.content, codec)
    except ValueError as error:
        charset = "UTF-8" if codec == UTF_8 else "the charset that it declares"
        raise ValueError(f"is not text in {charset}; a file needs a file name") from error


def _given(value: str | UploadFile) -> bool:
    return bool(value) if isinstance(value, str) else not is_unused(value)


def is_unused(file: UploadFile) -> bool:
    """Whether this is what browsers send for a file input that nobody has used."""
    return not file.filename and not file.size


def _decoded(content: bytes, codec: str) -> str:
    text = content.decode(codec)
    if "\0" in text:
        raise ValueError("text in UTF-16 or UTF-32, which looks like this")
    return text


def _codec(options: dict[bytes, bytes], default: str) -> str:
    return CODECS.get(_label(options.get(b"charset", b"")), default)


def _label(charset: bytes) -> str:
    return "".join(filter(str.isalnum, charset[:40].decode("latin-1").lower()))


def _storage_error(error: OSError) -> StorageError:
    cause = f"{type(error).__name__} {errno.errorcode.get(error.errno or 0, '')} in the temporary folder"
    if error.errno in _FULL:
        detail = "The temporary folder for uploads is full."
        return StorageFull(detail, part="uploads", cause=cause, retry_after=RETRY_AFTER_SECONDS)
    detail = "The temporary folder for uploads cannot be written to."
    return StorageUnavailable(detail, part="uploads", cause=cause, retry_after=RETRY_AFTER_SECONDS)
