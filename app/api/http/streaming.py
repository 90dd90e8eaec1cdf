"""Response bodies that are sent in segments, with backpressure and a Content-Length."""

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence

from fastapi import Response
from starlette.types import Receive, Scope, Send

from app.api.http.response_writer import Sender, Sending
from app.domain.errors import CallerLeft, SlowReader
from app.lib.base64_json import Content, Encoded
from app.lib.scheduler import PIECE_BYTES, Pace, work_in

EXTENSIONS = {
    "image/jpeg": "jpg",
    "image/png": "png",
    "image/webp": "webp",
    "image/heic": "heic",
    "image/heif": "heif",
}


Segment = bytes | Encoded | Content


async def pieces_of(segments: Iterable[Segment], pace: Pace) -> AsyncGenerator[bytes]:
    """The segments piece by piece, never joined, each encoded when its turn comes."""
    for segment in segments:
        if isinstance(segment, bytes):
            yield segment
            continue
        left, turn = len(segment), 0
        async for piece in segment:
            # The server waits only for callers who are slow; others would have all of it sent at one go.
            if turn <= 0:
                work = work_in(left)
                await pace.turn(work)
                turn = work * PIECE_BYTES
            turn -= len(piece)
            left -= len(piece)
            yield piece


class Pieces(Response):
    """A body in segments, with its length."""

    def __init__(
        self, segments: Sequence[Segment], media_type: str, headers: Mapping[str, str], sending: Sending
    ) -> None:
        self._segments = segments
        self._sending = sending
        super().__init__(None, headers=headers, media_type=media_type)
        self.headers["Content-Length"] = str(sum(map(len, segments)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sender = Sender(scope, send, self._sending)
        try:
            await sender.start(self.status_code, self.raw_headers)
            await sender.send_all(pieces_of(self._segments, self._sending.pace), receive)
            await sender.end()
        except (CallerLeft, SlowReader) as error:
            self._sending.failed(error)
