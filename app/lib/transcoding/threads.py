"""Threads for conversions: about one for each core, with a lower priority than the event loop's."""

import asyncio
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

from app.lib.transcoding.conversion import Conversion, Converted

_NICENESS = 10
"""Scheduling priority below the default of 0. The threads that libvips starts inherit it."""


class ConversionThreads:
    def __init__(self) -> None:
        self.count = _usable_cores()
        self._executor = ThreadPoolExecutor(self.count, "conversion", initializer=_lower_priority)

    async def run(self, conversion: Conversion) -> Converted:
        """Run the conversion in a thread. If this method is cancelled, the conversion is stopped.

        Raises:
            ConversionFailed: as `Conversion.run`.
        """
        future = asyncio.get_running_loop().run_in_executor(self._executor, conversion.run)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            conversion.stop()
            await asyncio.wait({future})  # its memory is in use until then
            if not future.cancelled():
                future.exception()  # retrieved, so that asyncio does not log it
            raise
        finally:
            del future  # it holds the error, whose traceback holds this frame: a reference cycle

    def close(self) -> None:
        """Let the threads end. All conversions have been stopped before."""
        self._executor.shutdown(wait=False, cancel_futures=True)


def _usable_cores() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _lower_priority() -> None:
    if sys.platform == "linux":  # elsewhere a priority is the whole process's
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
