"""Failures of the database and the blob store."""

from typing import Any

from app.domain.errors.base import ServiceError


class StorageError(ServiceError):
    def __init__(self, detail: str, *, part: str, cause: str | None = None, retry_after: int | None = None) -> None:
        """
        Args:
            detail: a sentence without paths or addresses.
            part: `database`, `blobs`, or `uploads`, which is the temporary folder.
            cause: for the log.
            retry_after: as ever.
        """
        super().__init__(detail, cause=cause, retry_after=retry_after)
        self.part = part

    def members(self) -> dict[str, Any]:
        return {"part": self.part}


class StorageDamaged(StorageError):
    """Something is gone that was there."""

    status, code, title = 500, "storage_damaged", "Something that was stored is missing"

    lost: object = None
    """The content that is missing."""


class StorageUnavailable(StorageError):
    status, code, title = 503, "storage_unavailable", "The storage cannot be reached"


class StorageFull(StorageError):
    status, code, title = 507, "storage_full", "The storage is full"
