"""Reference images inside a JSON body: extracted and decoded while the body arrives.

FastAPI parses and Pydantic validates the small remaining JSON, which has a placeholder for each image.
"""

from collections.abc import Awaitable, Callable, Coroutine
from contextlib import aclosing
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.datastructures import FormData

from app.api.http import content_type
from app.api.http.forms import MAX_TEXT_BYTES, read_form
from app.api.http.problems import as_service_error
from app.api.http.state import RequestState, request_state
from app.domain.errors import CallerDisconnected, CallerError, InvalidJson, TooLarge
from app.lib.base64_json import Base64Decoder, Base64Extractor, TooManyMembers

MAX_BETWEEN_STRINGS_BYTES = 4096
"""Limit for everything in a body except strings and white space: braces, colons, commas, numbers. Each string counts as
one more byte. The longest valid request needs less than half. A body of unknown keys can have at most 1,000 of them."""

_PARSE_COST = 2
"""Cost of parsing and validating a small request, in units of `FairScheduler`."""

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


class ExtractingRequest(Request):
    """A request that extracts the images from its JSON body, and reads forms strictly."""

    _extractor: Base64Extractor[InlineImage] | None = None

    async def body(self) -> bytes:
        if self._extractor is None:
            self._extractor = Base64Extractor(
                {"data": InlineImage, "url": InlineImage}, max_between_bytes=MAX_BETWEEN_STRINGS_BYTES
            )
            self._body = b"" if self._is_other_type else await self._read(self._extractor)
        return self._body

    async def json(self) -> Any:
        try:
            parsed = await super().json()
        except (ValueError, RecursionError) as error:
            raise InvalidJson("The body is not valid JSON.") from error
        self._body = b""  # free the text: generating the image takes a minute
        return parsed

    async def _get_form(
        self, *, max_files: float = 1000, max_fields: float = 1000, max_part_size: int = 1024 * 1024
    ) -> FormData:
        if self._form is None:
            async with aclosing(self.stream()) as stream:
                self._form = await read_form(
                    self.headers, stream, max_files=max_files, max_fields=max_fields, max_part_size=max_part_size
                )
        return self._form

    @property
    def _is_other_type(self) -> bool:
        """True if the body is not JSON: the route refuses it, so it need not be read."""
        given = content_type.media_type(self.headers)
        return given != "" and not content_type.matches(given, content_type.JSON)

    async def _read(self, extractor: Base64Extractor[InlineImage]) -> bytes:
        text = bytearray()
        try:
            async for chunk in self.stream():
                text += extractor.feed(chunk)
                if len(text) > MAX_TEXT_BYTES:
                    raise TooLarge(
                        f"The body is larger than this service accepts: {MAX_TEXT_BYTES:,} bytes without its images."
                    )
        except TooManyMembers as error:
            raise InvalidJson("The body has many more keys, values or digits than any request needs.") from error
        return bytes(text + extractor.close())

    def inline_image(self, text: str) -> InlineImage:
        """Return the image of a `data` or `url` field, whose parsed value is `text`: a placeholder, or short base64."""
        extracted = self._extractor.extracted.get(text) if self._extractor else None
        return extracted or InlineImage.of(text)


class ExtractingRoute(APIRoute):
    """A route whose handler gets an `ExtractingRequest`. Its body counts towards the memory for uploads."""

    generates = False
    """True if each request of the route asks for an image."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            state = request_state(request.scope)
            state["generation_pending"] = self.generates
            try:
                # Before the body is read, so that an upload that cannot be served is refused at once.
                state["admission"].check_capacity(state["caller"].name)
                await state["scheduler"].slot(_PARSE_COST)
                return await _handle_with_upload(handler, request)
            except Exception as error:
                _count_rejection(error, state)
                raise

        return handle


class GenerationRoute(ExtractingRoute):
    """A route that generates an image."""

    generates = True


async def _handle_with_upload(handler: Callable[[Request], Awaitable[Response]], request: Request) -> Response:
    """Call the handler of a route. The memory of the body is held until it returns, or until later holders release
    it."""
    state = request_state(request.scope)
    body = state["upload_limiter"].body(request.scope, request.receive, state["caller"].name)
    state["upload"] = body
    try:
        return await handler(ExtractingRequest(request.scope, body.receive))
    finally:
        body.release()


def _count_rejection(error: Exception, state: RequestState) -> None:
    """Count a request for an image that failed before its generation began, unless the caller caused the error."""
    if not state["generation_pending"] or isinstance(error, RequestValidationError):
        return
    rejection = as_service_error(error)
    if not isinstance(rejection, CallerError | CallerDisconnected):
        state["metrics"].record_rejection(rejection.code)
