"""Convert images to another type, quality or width, within the memory budget."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from app.domain.generation import Image
from app.lib.base64_json import Content, SegmentedContent
from app.lib.byte_budget import ByteBudget, Reservation
from app.lib.imagefile import ImageHeader, is_top_down
from app.lib.transcoding import MIME_TYPES, Conversion, ConversionFailed, ConversionThreads, Target, estimate_bytes

CONVERTIBLE_TYPES = MIME_TYPES
"""The types that images can be converted from and to."""


class ImageConverter:
    """Runs conversions in threads, as many as memory allows.

    A conversion waits until the memory that it needs is free, or until no other conversion runs. So one always runs,
    even if responses hold all memory and each of them waits for its conversion.
    """

    def __init__(self, memory: ByteBudget, max_pixels: int) -> None:
        """
        Args:
            memory: where the memory of conversions counts.
            max_pixels: images with more pixels are refused, if the caller of `convert` names no other limit.
        """
        self._memory = memory
        self._max_pixels = max_pixels
        self._threads = ConversionThreads()
        self._running = 0
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()

    async def convert(
        self, image: Image, target: Target, memory: Reservation, *, max_pixels: int | None = None
    ) -> Image:
        """Return the image as the target says. If this method is cancelled, the conversion stops.

        Args:
            image: has one of `CONVERTIBLE_TYPES`.
            target: what to convert to.
            memory: holds the result's bytes from then on.
            max_pixels: an image with more pixels is refused before it is decoded.

        Raises:
            ConversionFailed: the image has too many pixels, or cannot be decoded.
            StorageError: the image is stored and cannot be read.
        """
        limit = max_pixels or self._max_pixels
        header = ImageHeader(image.mime_type, image.width, image.height)
        if header.pixels > limit:
            raise ConversionFailed(f"it has {image.width}×{image.height} pixels")
        top_down = is_top_down(await _first_piece(image.content))
        need = estimate_bytes(header, len(image.content), top_down=top_down, target=target)
        async with self._room(need):
            pieces = [piece async for piece in image.content]
            converted = await self._threads.run(Conversion(pieces, image.mime_type, target, limit))
            content = SegmentedContent(converted.pieces)
            memory.resize(memory.held + len(content))
        return Image(content, target.mime_type, converted.width, converted.height)

    def reserve(self) -> Reservation:
        """Return a reservation, without bytes yet, in the budget of the conversions."""
        return Reservation(self._memory)

    def close(self) -> None:
        self._threads.close()

    @asynccontextmanager
    async def _room(self, need: int) -> AsyncGenerator[None]:
        """Hold a thread and `need` bytes during the block."""
        if self._waiting or not self._may_start(need):
            await self._wait(need)
        else:
            self._start(need)
        try:
            yield
        finally:
            self._end(need)

    async def _wait(self, need: int) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((turn, need))
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self._end(need)
            raise

    def _may_start(self, need: int) -> bool:
        return not self._running or (self._running < self._threads.count and self._memory.fits(need))

    def _start(self, need: int) -> None:
        self._running += 1
        self._memory.adjust(need)

    def _end(self, need: int) -> None:
        self._running -= 1
        self._memory.adjust(-need)
        while self._waiting and (self._waiting[0][0].done() or self._may_start(self._waiting[0][1])):
            turn, wanted = self._waiting.popleft()
            if not turn.done():
                self._start(wanted)
                turn.set_result(None)


async def _first_piece(content: Content) -> bytes:
    async for piece in content:
        return piece
    return b""


__all__ = ["CONVERTIBLE_TYPES", "ConversionFailed", "ImageConverter", "Target"]
