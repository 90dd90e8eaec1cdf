"""What the caller prefers by the header `Prefer` (RFC 7240)."""

import re

from starlette.datastructures import Headers

_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,6})", re.IGNORECASE)


def preferred_wait(headers: Headers) -> int | None:
    """Return the N of `wait=N` in seconds; `None` if the caller does not send it."""
    wait = _WAIT.search(",".join(headers.getlist("prefer")))
    return int(wait[1]) if wait else None
