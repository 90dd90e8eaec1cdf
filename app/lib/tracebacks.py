"""Free what the traceback of an exception refers to."""

import traceback


def clear_traceback_frames(error: BaseException | None) -> None:
    """Clear the local variables of the finished functions in the error's traceback, and in those of its causes.

    They can refer to images. With reference cycles, the images would stay in memory until the garbage collector runs.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:  # an error that is raised again can be its own context
        seen.add(id(error))
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
