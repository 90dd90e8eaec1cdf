"""Reference images inside a JSON body: lifted out and decoded while the body arrives.

What FastAPI parses and Pydantic checks is the small rest, with a token in the place of each image.
"""

from collections.abc import Callable, Coroutine
from contextlib import aclosing
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.datastructures import FormData

from app.api.http import content_type
from app.api.http.forms import MAX_TEXT_BYTES, read_form
from app.api.http.problems import GENERATION
from app.api.images.events import EventStreamResponse
from app.domain.errors import InvalidJson, TooLarge
from app.lib.base64_json import Base64Decoder, Base64Extractor, TooManyMembers

MAX_BETWEEN_STRINGS_BYTES = 4096
"""How much may stand between the strings of a body, white space not counted: braces, colons, commas, numbers. Each
string counts as one byte more. The longest valid request needs less than half of that; a body of nothing but unknown
keys has 1,000 of them at most."""

_PARSE_COST = 2
"""What it takes to read and check a small request, in the units of `FairScheduler`."""

_MAX_DECLARATION_BYTES = 32 * 1024
"""How long the beginning of a data URL may be, up to its comma. Some hold a file's name there, percent-encoded."""

_BROKEN_LINES = b"\t\r\n"
_CONTROLS = bytes(range(0x21))
"""What a browser takes out of a URL, and from its beginning, before it reads it."""


class InlineImage:
    """The content of a `data` or `url` field: base64, or a data URL of base64, read as browsers read those (WHATWG:
    Fetch, data: URL processor; Infra, forgiving-base64 decode)."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.is_data_url = False
        self._problem: str | None = None
        self._decoder = Base64Decoder(self.data.extend)
        self._start: bytearray | None = bytearray()  # until it is known what this is
        self._cut_escape = b""
        self._in_fragment = False

    @classmethod
    def of(cls, text: str) -> "InlineImage":
        """From a text that is there as a whole."""
        file = cls()
        file.feed(text.encode(errors="replace"))
        file.close()
        return file

    @property
    def problem(self) -> str | None:
        """Why it holds no bytes, to complete the sentence "this field …"."""
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
        """Find out whether this is a data URL, and what it declares, if so much of it is there."""
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
        """Decode more base64; that of a data URL may be percent-encoded, and ends where a fragment begins."""
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
    """Undo the percent-encoding, all at once. What is none stays as it is, and is no base64."""
    if b"\\" in text:
        return text
    try:
        return text.replace(b"%", b"\\x").decode("unicode_escape").encode("latin-1")
    except ValueError:
        return text


class ExtractingRequest(Request):
    """A request whose JSON body has its images beside it."""

    _extractor: Base64Extractor[InlineImage] | None = None

    async def body(self) -> bytes:
        if self._extractor is None:
            self._extractor = Base64Extractor(
                {"data": InlineImage, "url": InlineImage}, max_between_bytes=MAX_BETWEEN_STRINGS_BYTES
            )
            self._body = b"" if self._is_something_else else await self._rest(self._extractor)
        return self._body

    async def json(self) -> Any:
        try:
            parsed = await super().json()
        except (ValueError, RecursionError) as error:
            raise InvalidJson("The body is not valid JSON.") from error
        self._body = b""  # its text is no longer needed while the image is made
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
    def _is_something_else(self) -> bool:
        """Whether the body is of a type that the route will refuse, so that there is no use in reading it."""
        given = content_type.media_type(self.headers)
        return given != "" and not content_type.matches(given, content_type.JSON)

    async def _rest(self, extractor: Base64Extractor[InlineImage]) -> bytes:
        rest = bytearray()
        try:
            async for chunk in self.stream():
                rest += extractor.feed(chunk)
                if len(rest) > MAX_TEXT_BYTES:
                    raise TooLarge(
                        f"The body is larger than this service takes: {MAX_TEXT_BYTES:,} bytes without its images."
                    )
        except TooManyMembers as error:
            raise InvalidJson("The body has many more keys, values or digits than any request needs.") from error
        return bytes(rest + extractor.close())

    def file(self, text: str) -> InlineImage:
        """The file that `text`, the value of a field in the body, stands for."""
        lifted = self._extractor.extracted.get(text) if self._extractor else None
        return lifted or InlineImage.of(text)


class ExtractingRoute(APIRoute):
    """A route whose handler gets an `ExtractingRequest`."""

    asks_for_generation = False
    """Whether each request asks for an image."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            setattr(request.state, GENERATION, self.asks_for_generation)
            caller = request.state.caller.name
            # Before the body is read: an upload that cannot be served is refused at once.
            request.state.admission.check_capacity(caller)
            await request.state.scheduler.slot(_PARSE_COST)
            request.state.upload = body = request.state.upload_limiter.body(request.scope, request.receive, caller)
            try:
                response = await handler(ExtractingRequest(request.scope, body.receive))
            except BaseException:
                body.release()
                raise
            if isinstance(response, EventStreamResponse):
                response.on_close = body.release  # its image is still to be drawn
            else:
                body.release()
            return response

        return handle


class GenerationRoute(ExtractingRoute):
    """A route that makes an image."""

    asks_for_generation = True
