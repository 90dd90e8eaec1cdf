"""Stored blobs: bytes under their SHA-256, in a directory or a bucket, and the database table that lists them."""

from app.store.blobs.blob import Blob, digest_of
from app.store.blobs.index import GRACE_SECONDS, BlobIndex, PendingBlobs
from app.store.blobs.location import directory_of
from app.store.blobs.store import BlobStore

__all__ = ["GRACE_SECONDS", "Blob", "BlobIndex", "BlobStore", "PendingBlobs", "digest_of", "directory_of"]
