"""Translate exceptions of the database and the blob store to `StorageError`, without paths and addresses."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from obstore.exceptions import BaseError
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from app.domain.errors import StorageDamaged, StorageError, StorageFull, StorageUnavailable

RETRY_AFTER_SECONDS = 10
"""`Retry-After` of storage errors. How long a repair takes is unknown."""

_FULL_ERRNOS = {errno.ENOSPC, errno.EDQUOT}
_FULL_MESSAGES = re.compile(r"no space left|disk is full|disk full|quota exceeded|\(os error (28|122)\)", re.IGNORECASE)
_FULL_STATES = {"53100"}  # PostgreSQL's disk_full

_DAMAGED = {"SQLITE_NOTADB", "SQLITE_CORRUPT"}

_NAMES = {"database": "database", "blobs": "image store"}


@contextmanager
def as_storage_errors(part: str) -> Iterator[None]:
    """Raise each failure inside the block as a `StorageError` of `part`, which is `database` or `blobs`."""
    try:
        yield
    except (SQLAlchemyError, BaseError, OSError, TimeoutError) as error:
        raise storage_error(part, error) from error


def storage_error(part: str, error: BaseException) -> StorageError:
    """Return the `StorageError` for an exception that `part` has raised."""
    cause = _cause(error)
    if _is_damaged(error):
        return StorageDamaged(f"The {_NAMES[part]} is damaged.", part=part, cause=cause)
    if _is_full(error):
        detail = f"The {_NAMES[part]} is full. Nothing more can be saved."
        return StorageFull(detail, part=part, cause=cause, retry_after=RETRY_AFTER_SECONDS)
    detail = f"The {_NAMES[part]} does not answer, or answers with an error."
    return StorageUnavailable(detail, part=part, cause=cause, retry_after=RETRY_AFTER_SECONDS)


def _is_damaged(error: BaseException) -> bool:
    original = error.orig if isinstance(error, DBAPIError) else error
    return getattr(original, "sqlite_errorname", None) in _DAMAGED


def _is_full(error: BaseException) -> bool:
    original = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(original, OSError) and original.errno in _FULL_ERRNOS:
        return True
    return getattr(original, "sqlstate", None) in _FULL_STATES or bool(_FULL_MESSAGES.search(str(original)))


def _cause(error: BaseException) -> str:
    """Return types and codes for the log. Messages are left out: they contain paths, addresses and statements."""
    original = error.orig if isinstance(error, DBAPIError) and error.orig else error
    names = {type(error).__name__: None, type(original).__name__: None}
    code = getattr(original, "sqlite_errorname", None) or getattr(original, "sqlstate", None)
    number = original.errno if isinstance(original, OSError) else None
    return " ".join([*names, *filter(None, [code, number and errno.errorcode.get(number)])])
