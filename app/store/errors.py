"""Whatever the database or the blob store raises, as a `StorageError`: the part, never a path or an address."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from obstore.exceptions import BaseError
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from app.domain.errors import StorageDamaged, StorageError, StorageFull, StorageUnavailable

RETRY_AFTER_SECONDS = 10
"""What to tell callers: nobody knows how long it takes to bring a database back."""

_FULL = {errno.ENOSPC, errno.EDQUOT}
_FULL_WORDS = re.compile(r"no space left|disk is full|disk full|quota exceeded|\(os error (28|122)\)", re.IGNORECASE)
_FULL_STATES = {"53100"}  # PostgreSQL's disk_full

_DAMAGED = {"SQLITE_NOTADB", "SQLITE_CORRUPT"}

_NAMES = {"database": "database of chats", "blobs": "store of images"}


@contextmanager
def as_storage_errors(part: str) -> Iterator[None]:
    """Raise whatever goes wrong with `part`, which is `database` or `blobs`, as a `StorageError`."""
    try:
        yield
    except (SQLAlchemyError, BaseError, OSError, TimeoutError) as error:
        raise storage_error(part, error) from error


def storage_error(part: str, error: BaseException) -> StorageError:
    """What `error` means for whoever wanted something of `part`."""
    cause = _cause(error)
    if _is_damaged(error):
        return StorageDamaged(f"The {_NAMES[part]} is damaged.", part=part, cause=cause)
    if _is_full(error):
        detail = f"The {_NAMES[part]} is full; nothing more can be kept."
        return StorageFull(detail, part=part, cause=cause, retry_after=RETRY_AFTER_SECONDS)
    detail = f"The {_NAMES[part]} does not answer, or not as it should."
    return StorageUnavailable(detail, part=part, cause=cause, retry_after=RETRY_AFTER_SECONDS)


def _is_damaged(error: BaseException) -> bool:
    original = error.orig if isinstance(error, DBAPIError) else error
    return getattr(original, "sqlite_errorname", None) in _DAMAGED


def _is_full(error: BaseException) -> bool:
    original = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(original, OSError) and original.errno in _FULL:
        return True
    return getattr(original, "sqlstate", None) in _FULL_STATES or bool(_FULL_WORDS.search(str(original)))


def _cause(error: BaseException) -> str:
    """The kind of it, for the log: messages hold paths, addresses and statements."""
    original = error.orig if isinstance(error, DBAPIError) and error.orig else error
    named = {type(error).__name__: None, type(original).__name__: None}
    code = getattr(original, "sqlite_errorname", None) or getattr(original, "sqlstate", None)
    number = original.errno if isinstance(original, OSError) else None
    return " ".join([*named, *filter(None, [code, number and errno.errorcode.get(number)])])
