"""Response bodies that are sent in segments, with backpressure and a Content-Length."""

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence

from fastapi import Response
from starlette.types import Receive, Scope, Send

from app.api.http.response_writer import ResponseWriter, WriteOptions
from app.domain.errors import CallerDisconnected, CallerTooSlow
from app.lib.base64_json import Base64Encoded, Content
from app.lib.scheduler import PIECE_BYTES, FairScheduler, work_in

EXTENSIONS = {
    "image/jpeg": "jpg",
    "image/png": "png",
    "image/webp": "webp",
    "image/heic": "heic",
    "image/heif": "heif",
}


Segment = bytes | Base64Encoded | Content


async def iter_pieces(segments: Iterable[Segment], scheduler: FairScheduler) -> AsyncGenerator[bytes]:
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
                await scheduler.slot(work)
                turn = work * PIECE_BYTES
            turn -= len(piece)
            left -= len(piece)
            yield piece


class SegmentedResponse(Response):
    """A body in segments, with its length."""

    def __init__(
        self, segments: Sequence[Segment], media_type: str, headers: Mapping[str, str], options: WriteOptions
    ) -> None:
        self._segments = segments
        self._options = options
        super().__init__(None, headers=headers, media_type=media_type)
        self.headers["Content-Length"] = str(sum(map(len, segments)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sender = ResponseWriter(scope, send, self._options)
        try:
            await sender.start(self.status_code, self.raw_headers)
            await sender.send_all(iter_pieces(self._segments, self._options.scheduler), receive)
            await sender.end()
        except (CallerDisconnected, CallerTooSlow) as error:
            self._options.failed(error)
