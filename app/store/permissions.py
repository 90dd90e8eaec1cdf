"""File permissions of stored chats: only the user that the service runs as may read them.

Some file systems have no permissions, and some folders belong to another user. Their permissions stay unchanged, and
chats are stored nevertheless.
"""

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

PRIVATE_FOLDER = 0o700
PRIVATE_FILE = 0o600

_STORED = re.compile(
    r"chats\.db(-wal|-shm|-journal)?|blobs|answers|partial|probe(#\d+)?|[0-9a-f]{2}|[0-9a-f]{64}(-[0-9a-f]{8})?(#\d+)?"
)
"""Matches the names of the files and folders that the service makes."""


def make_private_folder(folder: Path) -> None:
    """Make the folder and its missing parents, so that only this user may use them.

    An existing folder is closed to other users only if all its files are the service's own. A folder such as `/tmp` is
    shared with other users and stays open.

    Raises:
        OSError: the folder cannot be made.
    """
    for missing in reversed([path for path in (folder, *folder.parents) if not path.is_dir()]):
        missing.mkdir(PRIVATE_FOLDER, exist_ok=True)
    with suppress(OSError):
        if is_open_to_others(folder) and all(_STORED.fullmatch(path.name) for path in [*folder.iterdir()]):
            folder.chmod(PRIVATE_FOLDER)


def make_private_file(file: Path) -> None:
    """Make the file if it does not exist, so that only this user may read it. An existing one is not changed.

    Raises:
        OSError: the file cannot be made.
    """
    with suppress(FileExistsError):
        os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, PRIVATE_FILE))


def close_to_others(paths: Iterable[Path]) -> None:
    """Remove the permissions of all other users from those of the files and folders that exist."""
    for path in paths:
        with suppress(OSError):
            if is_open_to_others(path):
                path.chmod(PRIVATE_FOLDER if path.is_dir() else PRIVATE_FILE)


def is_open_to_others(path: Path) -> bool:
    """Return whether other users have any permission on the path."""
    return bool(path.stat().st_mode & 0o077)
