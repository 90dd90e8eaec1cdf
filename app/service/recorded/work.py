"""A recorded generation that this process is running."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.domain.progress import ProgressEvent
from app.domain.recorded import Order, Outcome

if TYPE_CHECKING:
    from app.service.generation.run import GenerationRun

Listener = Callable[[int, ProgressEvent], None]
"""Receives the index of an image and a progress event of it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a generation."""

    outcomes: tuple[Outcome, ...]
    """One for each image. The images are in memory or in the store."""
    is_converted: bool
    """Whether the images have the format that the order asks for."""


class Work:
    """A recorded generation that this process is running. Requests that wait for it hold it."""

    def __init__(self, id_: str, holder: str, order: Order, *, is_async: bool, streams: bool, asked: bool) -> None:
        """
        Args:
            id_: of the generation.
            holder: holder of its lease.
            order: what to generate.
            is_async: whether it goes back to the queue if it cannot run now.
            streams: whether to ask Gemini for a stream, so that there are progress events.
            asked: whether the row says already that Gemini is asked.
        """
        loop = asyncio.get_running_loop()
        self.id = id_
        self.holder = holder
        self.order = order
        self.is_async = is_async
        self.streams = streams
        self.asked = asked
        self.is_lost = False
        """Whether another process has the generation, or it was deleted."""
        self.asking = asyncio.Lock()
        self.runs: list[GenerationRun] = []
        """One for each image."""
        self.chat_id: str | None = None
        """The chat that stores the image, once it is known."""
        self.answered: asyncio.Future[Answer | None] = loop.create_future()
        """Done when all images are complete or have failed. `None`: this process has lost the generation, and the
        database has what became of it."""
        self.kept: asyncio.Future[None] = loop.create_future()
        """Done when all images survive the end of this process, so that responses may end."""
        self.settled: asyncio.Future[None] = loop.create_future()
        """Done when the answer is stored, or storing it has failed for good."""
        self.listeners: set[Listener] = set()
        self._holders = 1
        self._is_finished = False
        self._kept = set[int]()

    def note_kept(self, place: int) -> None:
        """Note that the image with this index survives the end of this process."""
        self._kept.add(place)
        if len(self._kept) == self.order.count and not self.kept.done():
            self.kept.set_result(None)

    def notify(self, place: int, event: ProgressEvent) -> None:
        for listener in tuple(self.listeners):
            listener(place, event)

    def retain(self) -> None:
        """Add a holder, which must call `release`."""
        self._holders += 1

    def release(self) -> None:
        """Remove a holder. Without holders the images no longer count as memory, and the runs are logged."""
        self._holders -= 1
        if not self._holders and not self._is_finished:
            self._is_finished = True
            for run in self.runs:
                run.finish()
