"""A blob store in a directory: permissions, durability, free space and partial files. All functions block."""

import os
import secrets
import time
from collections.abc import Iterable
from pathlib import Path

from app.store.permissions import PRIVATE_FILE, close_to_others, is_open_to_others, make_private_folder

ANSWERS = "answers"
"""Folder of the objects that name the files of an answer."""

PARTIAL = "partial"
"""Folder of files that are being written."""

_PARTIAL_FILE_SECONDS = 3600
"""A partial file older than that has no writer any more."""


def make_private_directory(directory: Path) -> None:
    """Make the directory of a blob store, durably, so that only this user may read it.

    If the directory was open to other users, an earlier version of the service wrote it: then its files are closed too.

    Raises:
        OSError: the directory cannot be made.
    """
    was_open = directory.is_dir() and is_open_to_others(directory)
    make_private_folder(directory)
    if was_open:
        for folder in ("[0-9a-f][0-9a-f]", ANSWERS, PARTIAL):
            close_to_others([*directory.glob(folder), *directory.glob(f"{folder}/*")])
    _fsync(directory.parent)


def make_durable(file: Path, durable_folders: set[Path]) -> None:
    """Return when the file survives a power cut: file and folder are on disk, and a new folder's own entry is too.

    Args:
        file: a file that was renamed into place.
        durable_folders: folders whose own entry is on disk; the file's folder is added.
    """
    folder = file.parent
    close_to_others([file, folder])  # obstore makes both with the permissions of the umask
    for path in (file, folder, *(() if folder in durable_folders else (folder.parent,))):
        _fsync(path)
    durable_folders.add(folder)


def partial_file(directory: Path) -> Path:
    """Return the path of a new file that is being written. A crash leaves it to `remove_partial_files`."""
    return directory / PARTIAL / f"{secrets.token_hex(32)}#1"


def append(directory: Path, partial: Path, pieces: Iterable[bytes]) -> None:
    """Add bytes to a partial file of the directory. The first bytes create it."""
    with os.fdopen(_open_partial(directory, partial), "wb") as file:
        for piece in pieces:
            file.write(piece)


def _open_partial(directory: Path, partial: Path) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    try:
        return os.open(partial, flags, PRIVATE_FILE)
    except FileNotFoundError:
        if not directory.is_dir():
            raise  # a directory that disappeared is a failure, and not a new one
        make_private_folder(partial.parent)
        return os.open(partial, flags, PRIVATE_FILE)


def write(directory: Path, target: Path, pieces: Iterable[bytes]) -> None:
    """Write a whole file, and give it its name as `publish` does."""
    partial = partial_file(directory)
    try:
        append(directory, partial, pieces)
        publish(partial, target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def publish(partial: Path, target: Path) -> None:
    """Give a complete file its name. Another program sees it then; `make_durable` makes it survive a power cut.

    Args:
        partial: the file, in the same file system.
        target: its new path. A file with this path is replaced.
    """
    try:
        partial.replace(target)
    except FileNotFoundError:
        if not target.parent.parent.is_dir():
            raise
        make_private_folder(target.parent)
        partial.replace(target)


def free_bytes(directory: Path) -> int:
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize


def remove_partial_files(directory: Path) -> int:
    """Delete files that a crashed writer left behind; return their number.

    Their names have a number sign, also those of obstore.
    """
    removed = 0
    for path in directory.glob("*/*#*"):
        try:
            if time.time() - path.stat().st_mtime > _PARTIAL_FILE_SECONDS:
                path.unlink()
                removed += 1
        except FileNotFoundError:
            continue
    return removed


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
