"""Routes whose bodies hold images: JSON is read without its base64, memory is limited, rejections are counted.

The images are decoded while the body arrives. FastAPI parses the small remaining JSON, which has a placeholder for each
image.
"""

from collections.abc import Awaitable, Callable, Coroutine
from contextlib import aclosing
from json import JSONDecodeError
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.datastructures import FormData, Headers
from starlette.routing import Match
from starlette.types import Scope

from app.api.http import content_type
from app.api.http.error_conversion import as_service_error
from app.api.http.forms import MAX_TEXT_BYTES, read_form
from app.api.http.inline_images import InlineImage
from app.api.http.preferences import needs_no_slot
from app.api.http.state import RequestState, request_state
from app.domain.errors import CallerDisconnected, CallerError, InvalidJson, LimitReached, NotAllowed, TooLarge
from app.lib.base64_json import Base64Extractor, TooManyMembers

MAX_BETWEEN_STRINGS_BYTES = 4096
"""Limit for everything in a body except strings and white space: braces, colons, commas, numbers. Each string counts as
one more byte. The longest valid request needs less than half. A body of unknown keys can have at most 1,000 of them."""

IMAGE_KEYS = ("data", "url", "image_url")
"""Keys of a JSON body whose strings are images: base64 or data URLs. `image_url` is OpenAI's."""

_PARSE_COST = 2
"""Cost of parsing and validating a small request, in units of `FairScheduler`."""


class ExtractingRequest(Request):
    """A request that extracts the images from its JSON body, and reads forms strictly."""

    _extractor: Base64Extractor[InlineImage] | None = None

    async def body(self) -> bytes:
        if self._extractor is None:
            self._extractor = Base64Extractor(
                dict.fromkeys(IMAGE_KEYS, InlineImage), max_between_bytes=MAX_BETWEEN_STRINGS_BYTES
            )
            self._body = b"" if self._is_other_type else await self._read(self._extractor)
        return self._body

    async def json(self) -> Any:
        try:
            parsed = await super().json()
        except (ValueError, RecursionError) as error:
            raise InvalidJson(self._describe_invalid_json(error)) from error
        self._body = b""  # free the text: generating the image takes a minute
        return parsed

    def _describe_invalid_json(self, error: Exception) -> str:
        if "content-encoding" in self.headers:
            return "The body is not valid JSON. It has a Content-Encoding; send it without compression."
        if isinstance(error, UnicodeDecodeError):
            return "The body is not valid JSON, because it is not text in UTF-8."
        has_images = self._extractor is not None and self._extractor.extracted
        if isinstance(error, JSONDecodeError) and not has_images:  # without its images the text has other positions
            return f"The body is not valid JSON. The error is at line {error.lineno}, column {error.colno}."
        return "The body is not valid JSON."

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
        """Return the image of an image field, whose parsed value is `text`: a placeholder, or short base64."""
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
                # Before the body is read, so that an upload that cannot be served is refused at once. A repetition
                # of an earlier request, or a queued one, is served without a slot.
                if needs_no_slot(request.headers):
                    state["admission"].check_open()
                else:
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


class FormRoute(GenerationRoute):
    """A route for forms whose path a JSON route has too.

    FastAPI 0.165 selects a route by path and method only, and one route cannot take both a JSON body and form fields.
    """

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child = super().matches(scope)
        if match is Match.FULL and content_type.media_type(Headers(scope=scope)) != content_type.FORM:
            return Match.NONE, {}
        return match, child


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
    if isinstance(rejection, LimitReached | NotAllowed):
        state["metrics"].record_limit(state["caller"].name, rejection.code)
    if not isinstance(rejection, CallerError | CallerDisconnected):
        state["metrics"].record_rejection(rejection.code)
