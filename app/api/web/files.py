"""Static files in memory, with their types, ETags and a compressed copy of each."""

import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path

from fastapi import Request, Response

from app.api.http.image_file import matches

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}


@dataclass(frozen=True, slots=True)
class StaticFile:
    content: bytes
    gzipped: bytes
    media_type: str
    digest: str

    @classmethod
    def of(cls, content: bytes, suffix: str) -> "StaticFile":
        """Return a file whose type follows from the suffix of its name, such as `.js`."""
        digest = hashlib.sha256(content).hexdigest()[:32]
        return cls(content, gzip.compress(content, mtime=0), _TYPES[suffix], digest)

    def response(self, request: Request, headers: dict[str, str]) -> Response:
        """Return the file, or 304 if the browser has it. Browsers ask every time, so that an update is seen at once."""
        compressed = _accepts_gzip(request.headers.get("accept-encoding", ""))
        etag = f'"{self.digest}{"-gzip" if compressed else ""}"'
        headers = {"ETag": etag, "Cache-Control": "no-cache", "Vary": "Accept-Encoding", **headers}
        if matches(request.headers.get("if-none-match"), etag):
            return Response(status_code=304, headers=headers)
        if compressed:
            headers["Content-Encoding"] = "gzip"
        content = self.gzipped if compressed else self.content
        return Response(content, media_type=self.media_type, headers=headers)


def read_files(folder: Path) -> dict[str, StaticFile]:
    """Return the files below a folder by their relative path, such as `form/form.js`. Other types are left out."""
    paths = [path for path in folder.rglob("*") if path.suffix in _TYPES and path.is_file()]
    return {path.relative_to(folder).as_posix(): StaticFile.of(path.read_bytes(), path.suffix) for path in paths}


def _accepts_gzip(accept_encoding: str) -> bool:
    codings = [coding.partition(";") for coding in accept_encoding.lower().split(",")]
    return any(name.strip() == "gzip" and weight.strip() not in ("q=0", "q=0.0") for name, _, weight in codings)
