"""The location of the blob store: `BLOB_URL` names a directory or a bucket."""

import os
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from obstore.exceptions import BaseError
from obstore.store import ObjectStore, from_url

from app.domain.errors import StorageUnavailable

_BUCKET_SCHEMES = {"s3", "s3a", "gs", "az", "azure", "abfs", "abfss", "adl"}


def directory_of(url: str) -> Path | None:
    """Return the directory that `url` names, or `None` if it names a bucket.

    Raises:
        StorageUnavailable: the URL names neither, or the environment variables for the bucket are inconsistent.
    """
    directory = parse_directory(url)
    if directory is None:
        try:
            open_bucket(url)
        except (BaseError, ValueError) as error:
            why = str(error).partition("\n")[0]
            detail = "BLOB_URL does not name a bucket that can be used."
            raise StorageUnavailable(detail, part="blobs", cause=why) from error
    return directory


def parse_directory(url: str) -> Path | None:
    """Return the directory that `url` names, or `None` if its scheme is that of a bucket.

    Raises:
        StorageUnavailable: the URL has neither form.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        raise StorageUnavailable("BLOB_URL is not a URL.", part="blobs", cause="not a URL") from None
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return Path(unquote(parts.path))
    if parts.scheme not in _BUCKET_SCHEMES:
        detail = "BLOB_URL must start with file:///, s3://, gs:// or az://."
        raise StorageUnavailable(detail, part="blobs", cause=parts.scheme or "no scheme")
    return None


def open_bucket(url: str) -> ObjectStore:
    """Return a client of the bucket.

    Credentials, region and endpoint come from the environment variables that each cloud's own tools read.
    """
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    open_: Any = from_url  # the overloads depend on the kind of store, which is known only from the URL
    store: ObjectStore = open_(
        url,
        client_options={
            "timeout": "30s",
            "connect_timeout": "3s",
            "allow_http": url.startswith("s3") and endpoint.startswith("http://"),
        },
        retry_config={"max_retries": 2, "retry_timeout": timedelta(seconds=10)},
    )
    return store
