"""Reference images inside a JSON body: lifted out and decoded while the body arrives.

What FastAPI parses and Pydantic checks is the small rest, with a token in the place of each image.
"""

from collections.abc import Callable, Coroutine
from contextlib import aclosing
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute
from starlette.datastructures import FormData

from app.api.events import Events
from app.api.forms import read_form
from app.api.intake import intake_of
from app.api.problems import GENERATION
from app.errors import InvalidJson
from app.lifting import Decoder, Lifter
from app.memory import forget_frames

MAX_JSON_BYTES = 4 * 1024 * 1024
"""How long a body may be without the images in it. Prompts are much shorter than that."""

_READING = 2
"""What it takes to read and check a small request, in the units of `Pace`."""

_MAX_DECLARATION_BYTES = 256
"""How long the beginning of a data URL may be, up to its comma."""


class InlineFile:
    """The content of a `data` or `url` field: base64, or a data URL of base64."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.declaration: str | None = None
        """What a data URL says before its comma; `None` if this is none."""
        self._decoder = Decoder(self.data.extend)
        self._start: bytearray | None = bytearray()  # until it is known whether this is a data URL

    @classmethod
    def of(cls, text: str) -> "InlineFile":
        """From a text that is there as a whole."""
        file = cls()
        file.feed(text.encode(errors="replace"))
        file.close()
        return file

    @property
    def valid(self) -> bool:
        return self._decoder.valid and (self.declaration is None or self.declaration.lower().endswith(";base64"))

    @property
    def empty(self) -> bool:
        return not self._start and self._decoder.empty and self.declaration is None

    def feed(self, text: bytes) -> None:
        if self._start is None:
            self._decoder.feed(text)
            return
        self._start += text
        if len(self._start) >= len("data:"):
            self._decide()

    def close(self) -> None:
        if self._start is not None:
            self._decide(at_end=True)
        self._decoder.close()

    def _decide(self, *, at_end: bool = False) -> None:
        assert self._start is not None
        text = bytes(self._start)
        if text[:5].lower() == b"data:":
            comma = text.find(b",", 0, _MAX_DECLARATION_BYTES)
            if comma < 0 and len(text) < _MAX_DECLARATION_BYTES and not at_end:
                return
            self.declaration = text[: max(comma, 0)].decode(errors="replace")
            text = text[comma + 1 :]
        self._start = None
        self._decoder.feed(text)


class LiftedRequest(Request):
    """A request whose JSON body has its images beside it."""

    _lifter: Lifter[InlineFile] | None = None

    async def body(self) -> bytes:
        if self._lifter is None:
            self._lifter = Lifter({"data": InlineFile, "url": InlineFile})
            rest = bytearray()
            async for chunk in self.stream():
                rest += self._lifter.feed(chunk)
                if len(rest) > MAX_JSON_BYTES:
                    raise HTTPException(413)
            self._body = bytes(rest + self._lifter.close())
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

    def file(self, text: str) -> InlineFile:
        """The file that `text`, the value of a field in the body, stands for."""
        lifted = self._lifter.lifted.get(text) if self._lifter else None
        return lifted or InlineFile.of(text)


class LiftingRoute(APIRoute):
    """A route whose handler gets a `LiftedRequest`, when its turn comes."""

    asks_for_generation = False
    """Whether each request asks for an image."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            setattr(request.state, GENERATION, self.asks_for_generation)
            caller = request.state.caller.name
            request.state.gate.require_room(caller)  # nobody uploads a hundred megabytes to be told that there is none
            await request.state.pace.turn(_READING)
            request.state.upload = body = intake_of(request).body(request.scope, request.receive, caller)
            try:
                response = await handler(LiftedRequest(request.scope, body.receive))
            except BaseException as error:
                forget_frames(error)  # they hold what has arrived
                body.let_go()
                raise
            if isinstance(response, Events):
                response.at_end = body.let_go  # its image is still to be drawn
            else:
                body.let_go()
            return response

        return handle


class GeneratingRoute(LiftingRoute):
    """A route that makes an image."""

    asks_for_generation = True
