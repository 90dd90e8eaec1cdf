"""Logging: one line for each event, with its request id and without keys, prompts and images.

Only the loggers of the service and of uvicorn are configured. Other libraries quote headers and bodies at debug level,
so they log only warnings and errors, at every `LOG_LEVEL`.
"""

import json
import logging
import traceback
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal

request_id: ContextVar[str] = ContextVar("request_id", default="-")

_LIBRARIES_THAT_QUOTE = ("httpx2", "httpcore2", "google_genai", "google.auth", "python_multipart", "urllib3", "asyncio")
_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160), 0x2028, 0x2029)}
_STANDARD_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}


def configure(level: str, log_format: Literal["auto", "text", "json"]) -> None:
    """Send the log records of the service and of uvicorn to standard error.

    Args:
        level: the lowest level that is logged: `debug`, `info`, `warning` or `error`.
        log_format: `auto` is text on a terminal, else JSON.
    """
    handler = logging.StreamHandler()
    as_json = log_format == "json" or (log_format == "auto" and not handler.stream.isatty())
    handler.setFormatter(_Json() if as_json else _Text())
    for name in ("app", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(level.upper())
    access = logging.getLogger("uvicorn.access")  # the service logs each request itself, with its id and duration
    access.handlers, access.propagate = [], False
    logging.getLogger("uvicorn.error").handlers = []
    for name in _LIBRARIES_THAT_QUOTE:
        logging.getLogger(name).setLevel(logging.WARNING)


def describe_exception(error: BaseException, *, quote: bool = False) -> str:
    """Return the types and source lines of `error` and its causes, without messages, which can quote prompts.

    Args:
        error: the last exception of the chain.
        quote: add the messages.
    """
    described: list[str] = []
    link: BaseException | None = error
    seen: set[int] = set()
    while link is not None and id(link) not in seen:  # an exception that is raised again can be its own context
        seen.add(id(link))
        frames = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(link.__traceback__)]
        message = f" ({link})" if quote else ""
        described.append(f"{type(link).__qualname__}{message} at {' < '.join(reversed(frames))}")
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return "; from ".join(described)


def _extras(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD_ATTRIBUTES and value is not None}


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        extras = "".join(f" {key}={value}" for key, value in _extras(record).items())
        message = f"{record.getMessage()}{extras}{_trace(record)}"
        # Escaped, so that text from a caller or from Google cannot look like a line of this log.
        return f"{time} {record.levelname} {record.name} [{request_id.get()}] {message.translate(_ESCAPES)}"


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "requestId": request_id.get(),
            "message": record.getMessage() + _trace(record),
        }
        return json.dumps(line | _extras(record), default=str, ensure_ascii=False)


def _trace(record: logging.LogRecord) -> str:
    error = record.exc_info[1] if record.exc_info else None
    return f" {describe_exception(error)}" if error is not None else ""
