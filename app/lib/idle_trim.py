"""Giving memory back when there is nothing to do.

An allocator keeps what is freed below something that is still in use, and after a busy hour that can be most of the
heap. glibc gives all of it back when asked; other allocators are left alone.
"""

import asyncio
import ctypes
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

IDLE_SECONDS = 3.0
"""How long nobody has to be at work. Asking costs some milliseconds, and those who come back pay for the pages anew."""


class IdleMemoryTrimmer:
    """Knows whether anybody is at work, and gives back what is free once nobody has been for a while."""

    def __init__(self, idle_seconds: float = IDLE_SECONDS) -> None:
        self._idle_seconds = idle_seconds
        self._give_back = _trim()
        self._at_work = 0
        self._timer: asyncio.TimerHandle | None = None

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Somebody is at work inside the block."""
        if self._timer is not None:
            self._timer.cancel()
        self._at_work += 1
        try:
            yield
        finally:
            self._at_work -= 1
            if not self._at_work and self._give_back is not None:
                loop = asyncio.get_running_loop()
                # In another thread: the allocator is busy with it for a while, the event loop need not be.
                self._timer = loop.call_later(self._idle_seconds, loop.run_in_executor, None, self._give_back)


def clear_traceback_frames(error: BaseException | None) -> None:
    """Let go of everything that the functions an error came through have held: with images in it, it is too much to
    leave to the garbage collector."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:  # an error raised again can be its own context
        seen.add(id(error))
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _trim() -> Callable[[], object] | None:
    try:
        malloc_trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):
        return None
    malloc_trim.argtypes = [ctypes.c_size_t]
    return lambda: malloc_trim(0)
