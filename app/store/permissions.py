"""File permissions of stored chats: only the user that the service runs as may read them.

Some file systems have no permissions, and some folders belong to another user. Then they stay as they are: that is no
reason to refuse to keep chats.
"""

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

PRIVATE_FOLDER = 0o700
PRIVATE_FILE = 0o600

_STORED = re.compile(
    r"chats\.db(-wal|-shm|-journal)?|blobs|probe(#\d+)?|[0-9a-f]{2}|[0-9a-f]{64}(-[0-9a-f]{8})?(#\d+)?"
)
"""Names of the files and folders that the service makes."""


def make_private_folder(folder: Path) -> None:
    """Make the folder, and those above it, so that only this user may use them.

    A folder that is there already is closed to other users if it holds nothing but what the service makes: a folder
    such as `/tmp` or a home directory is shared with others.

    Raises:
        OSError: the folder cannot be made.
    """
    for missing in reversed([one for one in (folder, *folder.parents) if not one.is_dir()]):
        missing.mkdir(PRIVATE_FOLDER, exist_ok=True)
    with suppress(OSError):
        if is_open_to_others(folder) and all(_STORED.fullmatch(one.name) for one in [*folder.iterdir()]):
            folder.chmod(PRIVATE_FOLDER)


def make_private_file(file: Path) -> None:
    """Make the file if it is not there, so that only this user may read it.

    Raises:
        OSError: the file cannot be made.
    """
    with suppress(FileExistsError):
        os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, PRIVATE_FILE))
    close_to_others([file])


def close_to_others(paths: Iterable[Path]) -> None:
    """Take the permissions of all other users away from these files and folders, as far as they are there."""
    for path in paths:
        with suppress(OSError):
            if is_open_to_others(path):
                path.chmod(PRIVATE_FOLDER if path.is_dir() else PRIVATE_FILE)


def is_open_to_others(path: Path) -> bool:
    """Whether other users may do anything with it."""
    return bool(path.stat().st_mode & 0o077)
