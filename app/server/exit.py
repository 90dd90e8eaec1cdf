"""The end of a process."""

import atexit
import os
import sys
from typing import NoReturn


def exit_process(code: int) -> NoReturn:
    """End the process without taking the interpreter down.

    The blob store's threads may be about to tell Python that something is done. A Python that is being taken down ends
    a thread that calls it, which Rust answers by aborting the process: once in two hundred times, by 134.
    """
    atexit._run_exitfuncs()  # what others want done at the end: spans sent, logs written
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
