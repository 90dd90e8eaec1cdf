"""Multipart forms. Incomplete forms and undecodable text are refused; empty fields are left out."""

import errno
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from typing import TypedDict

from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from app.api.http.charsets import CODECS, UTF_8, declared_codec, normalized_label
from app.api.http.uploads import RETRY_AFTER_SECONDS
from app.domain.errors import FieldError, InvalidForm, StorageError, StorageFull, StorageUnavailable, TooLarge


class FormLimits(TypedDict):
    max_files: int
    max_fields: int
    max_part_size: int


FORM_LIMITS: FormLimits = {"max_files": 64, "max_fields": 200, "max_part_size": 1024 * 1024}
"""Limits of a form. No model takes so many files. `app/service/generation` knows each model's limit; it refuses and
counts."""

MAX_TEXT_BYTES = 4 * 1024 * 1024
"""Limit for the text in one request in bytes: all text fields of a form together, or a JSON body without its images. A
text of 200,000 characters takes up to 1.2 MB in JSON."""

_MAX_PARAMETERS = 20
"""Limit for a `Content-Type` or the header of a part. Parsing takes about a microsecond for each parameter."""

_PIECE_BYTES = 64 * 1024
"""The parser gets a form in pieces of this size."""

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
    """Read a multipart form. A body of another type is not read, because the route refuses it; the result is empty.

    The charset of a text is the first of these that is in `CODECS`: that of its part, the field `_charset_` (RFC 7578
    §4.6), the parameter `charset` of the form's `Content-Type`, UTF-8.

    Raises:
        InvalidForm: the form is malformed, lacks its closing boundary, or has text that cannot be decoded.
        TooLarge: the form exceeds a limit.
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
            raise TooLarge(
                f"The form exceeds a limit: {max_files:g} files, {max_fields:g} text fields, {max_part_size:,} bytes "
                f"in one text field, or {MAX_TEXT_BYTES:,} bytes in all of them."
            ) from error
        raise InvalidForm("The body is not a well-formed multipart form.") from error
    except OSError as error:
        raise _storage_error(error) from error
    try:
        return _form(parser.parts, declared_codec(options, UTF_8))
    except BaseException:
        parser.close()
        raise


class _Parser(MultiPartParser):
    """Starlette's parser, extended: it keeps the headers of parts, and detects a missing closing boundary."""

    spool_max_size = 8 * 1024 * 1024
    """Files up to this size in bytes stay in memory, which `UploadLimiter` limits. Larger files are written to disk,
    in a thread for each piece and with a third more CPU time."""

    def __init__(
        self,
        boundary: bytes,
        stream: AsyncGenerator[bytes],
        max_files: float,
        max_fields: float,
        max_part_size: int,
    ) -> None:
        # Starlette decodes names in the declared charset. ISO-8859-1 can be encoded back to the original bytes.
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
        """Yield the form in pieces. Refuse forms that the parser would take too long for."""
        delimiters = 0
        async for piece in _from_first(stream, delimiter):
            # The parser handles each delimiter on its own, even if no boundary follows.
            delimiters += piece.count(delimiter)
            if delimiters > self.max_files + self.max_fields:
                raise MultiPartException("Too many parts.")
            self._found = False
            yield piece
            # The parser reads spaces after a boundary one by one, and calls no method for them.
            if len(piece) == _PIECE_BYTES and not self._found and not self._ended:
                raise MultiPartException("Nothing but spaces after a boundary.")
        if not self._ended:
            raise InvalidForm("The form ends before its closing boundary. It has not arrived completely.")

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
            raise MultiPartException("A header has too many parameters.")
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
    """Yield a form in pieces from its first boundary on. Text before it is ignored (RFC 2046 §5.1.1)."""
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
    """Decode the parts. `codec` is that of the form's `Content-Type`."""
    declared = next((part.content for part in parts if part.name == b"_charset_"), b"")
    if isinstance(declared, bytes):
        codec = CODECS.get(normalized_label(declared), codec)
    fields: dict[str, list[str | UploadFile]] = defaultdict(list)
    wrong: list[FieldError] = []
    for part in parts:
        if part.name == b"_charset_":
            continue
        try:
            name = _decoded(part.name, codec)
        except ValueError as error:
            raise InvalidForm(
                "The name of a field is not text in UTF-8, or in the charset that the form declares."
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
    """Return the text or file of a part. An unused file input is a file without a name.

    Raises:
        ValueError: the part cannot be used. The message completes "the field …".
    """
    encoding, _ = part.header("content-transfer-encoding")
    if encoding not in _UNENCODED:
        raise ValueError("has a Content-Transfer-Encoding; send the bytes unencoded")
    if isinstance(part.content, UploadFile):
        part.content.filename = part.content.filename or None
        return part.content
    _, options = part.header("content-type")
    codec = declared_codec(options, codec if b"charset" not in options else UTF_8)
    try:
        return _decoded(part.content, codec)
    except ValueError as error:
        if b"charset" in options and normalized_label(options[b"charset"]) not in CODECS:
            raise ValueError("declares a charset that is not supported; send text in UTF-8") from error
        charset = "UTF-8" if codec == UTF_8 else "the charset that it declares"
        raise ValueError(f"is not text in {charset}; a file needs a file name") from error


def _given(value: str | UploadFile) -> bool:
    return bool(value) if isinstance(value, str) else not is_unused(value)


def is_unused(file: UploadFile) -> bool:
    """Return whether a file is what browsers send for an unused file input: without name and content."""
    return not file.filename and not file.size


def _decoded(content: bytes, codec: str) -> str:
    text = content.decode(codec)
    if "\0" in text:
        raise ValueError("NUL characters: it is probably UTF-16 or UTF-32")
    return text


def _storage_error(error: OSError) -> StorageError:
    cause = f"{type(error).__name__} {errno.errorcode.get(error.errno or 0, '')} in the temporary folder"
    if error.errno in _FULL:
        detail = "The temporary folder for uploads is full."
        return StorageFull(detail, part="uploads", cause=cause, retry_after=RETRY_AFTER_SECONDS)
    detail = "The temporary folder for uploads cannot be written to."
    return StorageUnavailable(detail, part="uploads", cause=cause, retry_after=RETRY_AFTER_SECONDS)
