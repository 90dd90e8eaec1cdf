"""Errors of the database and the blob store."""

from typing import Any

from app.domain.errors.base import ServiceError


class StorageError(ServiceError):
    def __init__(self, detail: str, *, part: str, cause: str | None = None, retry_after: int | None = None) -> None:
        """
        Args:
            detail: a sentence for the caller, without paths or addresses.
            part: `database`, `blobs`, or `uploads`, which is the temporary folder.
            cause: for the log.
            retry_after: as in `ServiceError`.
        """
        super().__init__(detail, cause=cause, retry_after=retry_after)
        self.part = part

    def members(self) -> dict[str, Any]:
        return {"part": self.part}


class StorageDamaged(StorageError):
    """Stored data is missing or cannot be read."""

    status, code, title = 500, "storage_damaged", "Stored data is missing"

    def __init__(self, detail: str, *, part: str, cause: str | None = None, missing: object = None) -> None:
        """
        Args:
            detail: a sentence for the caller.
            part: as in `StorageError`.
            cause: for the log.
            missing: the content that is missing.
        """
        super().__init__(detail, part=part, cause=cause)
        self.missing = missing


class StorageUnavailable(StorageError):
    status, code, title = 503, "storage_unavailable", "The storage cannot be reached"


class StorageFull(StorageError):
    status, code, title = 507, "storage_full", "The storage is full"
