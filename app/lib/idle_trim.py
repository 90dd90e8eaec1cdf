"""Return free memory to the operating system while the process is idle.

glibc cannot return free memory below a block that is still in use. After heavy load that can be most of the heap.
`malloc_trim` returns it. With other allocators nothing is done.
"""

import asyncio
import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager

IDLE_SECONDS = 3.0
"""Idle seconds before memory is returned. That takes some milliseconds, and later requests fault the pages in again."""


class IdleMemoryTrimmer:
    """Counts running work, and returns free memory after there was none for `idle_seconds`."""

    def __init__(self, idle_seconds: float = IDLE_SECONDS) -> None:
        self._idle_seconds = idle_seconds
        self._trim = _find_malloc_trim()
        self._running = 0
        self._timer: asyncio.TimerHandle | None = None

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Count the block as running work."""
        if self._timer is not None:
            self._timer.cancel()
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1
            if not self._running and self._trim is not None:
                loop = asyncio.get_running_loop()
                # In another thread, so that it does not block the event loop.
                self._timer = loop.call_later(self._idle_seconds, loop.run_in_executor, None, self._trim)


def _find_malloc_trim() -> Callable[[], object] | None:
    try:
        malloc_trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):
        return None
    malloc_trim.argtypes = [ctypes.c_size_t]
    return lambda: malloc_trim(0)
