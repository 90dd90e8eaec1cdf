"""Response bodies that are sent in pieces, with backpressure and a `Content-Length`."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence

from fastapi import Response
from starlette.types import Receive, Scope, Send

from app.api.http.response_writer import ResponseWriter
from app.api.http.state import request_state
from app.domain.errors import CallerDisconnected, CallerTooSlow, ServiceError
from app.lib.base64_json import Base64Encoded, Content
from app.lib.event_loop_scheduler import PIECE_BYTES, FairScheduler, work_in

EXTENSIONS = {
    "image/jpeg": "jpg",
    "image/png": "png",
    "image/webp": "webp",
    "image/heic": "heic",
    "image/heif": "heif",
}


Segment = bytes | Base64Encoded | Content


async def iter_pieces(segments: Iterable[Segment], scheduler: FairScheduler) -> AsyncGenerator[bytes]:
    """Yield the segments in pieces. They are never joined, and base64 is encoded when its piece is due."""
    for segment in segments:
        if isinstance(segment, bytes):
            yield segment
            continue
        left, scheduled = len(segment), 0
        async for piece in segment:
            # `send` waits only if the caller reads slowly. Without the scheduler, other responses would be sent in one
            # iteration of the event loop.
            if scheduled <= 0:
                work = work_in(left)
                await scheduler.slot(work)
                scheduled = work * PIECE_BYTES
            scheduled -= len(piece)
            left -= len(piece)
            yield piece


async def _hold_last(
    pieces: AsyncGenerator[bytes], before_end: Callable[[], Awaitable[object]]
) -> AsyncGenerator[bytes]:
    held = b""
    async for piece in pieces:
        if held:
            yield held
        held = piece
    await before_end()
    yield held


class SegmentedResponse(Response):
    """A body in segments whose length is known."""

    def __init__(
        self,
        segments: Sequence[Segment],
        media_type: str,
        headers: Mapping[str, str],
        on_failure: Callable[[ServiceError], None],
        before_end: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        """
        Args:
            segments: the body.
            media_type: of the body.
            headers: further headers.
            on_failure: called with the error if the caller does not read the whole response.
            before_end: awaited before the last piece is sent.
        """
        self._segments = segments
        self._before_end = before_end
        self._on_failure = on_failure
        super().__init__(None, headers=headers, media_type=media_type)
        self.headers["Content-Length"] = str(sum(map(len, segments)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = request_state(scope)
        writer = ResponseWriter(scope, send, state["settings"].deadline_seconds)
        try:
            await writer.start(self.status_code, self.raw_headers)
            pieces = iter_pieces(self._segments, state["scheduler"])
            if self._before_end is not None:
                pieces = _hold_last(pieces, self._before_end)
            await writer.send_all(pieces, receive)
            await writer.end()
        except (CallerDisconnected, CallerTooSlow) as error:
            self._on_failure(error)
