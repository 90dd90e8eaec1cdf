"""Who may come in. Every image costs money, so an open door is a bug.

The door stands before the body is read: nobody uploads a hundred megabytes to be told that they may not.
"""

import hashlib
import hmac
import logging
import re

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api import problems
from app.api.edge import PROBES, route_path
from app.domain import Caller
from app.errors import CallerError, ForbiddenOrigin, Unauthorized
from app.settings import Settings, is_loopback

log = logging.getLogger(__name__)

LOOPBACK_ORIGIN = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?"
"""Pages that come from the caller's own machine, a frontend under development for instance."""

_DOCS = ("/", "/docs", "/openapi.json")


class Door:
    def __init__(self, app: ASGIApp, *, settings: Settings) -> None:
        self.app = app
        self._settings = settings
        self._keys = [(key.name, _digest(key.secret.get_secret_value().encode())) for key in settings.service_api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._open_to_all(route_path(scope)):
            return await self.app(scope, receive, send)
        try:
            caller = self._caller(scope)
        except CallerError as error:
            log.info("refused at the door", extra={"code": error.code})
            return await problems.response(error)(scope, receive, send)
        scope.setdefault("state", {})["caller"] = caller
        await self.app(scope, receive, send)

    def _open_to_all(self, path: str) -> bool:
        if path in PROBES:
            return True
        if path == "/metrics":
            return self._settings.metrics_access == "open"
        documentation = path in _DOCS or path.startswith("/docs/")
        return documentation and self._settings.docs_access == "open"

    def _caller(self, scope: Scope) -> Caller:
        headers = Headers(scope=scope)
        if self._keys:
            return self._holder_of(headers)
        if self._settings.allow_anonymous:
            return Caller("anonymous")
        server = scope.get("server")
        if server and server[1] is not None and not is_loopback(server[0]):
            raise Unauthorized("Without keys this service serves its own machine only. Set SERVICE_API_KEYS.")
        self._require_known_page(headers)
        return Caller("local")

    def _holder_of(self, headers: Headers) -> Caller:
        scheme, _, presented = headers.get("authorization", "").partition(" ")
        bearer = presented.strip() if scheme.lower() == "bearer" else ""
        # Both are looked at: a gateway in front may need Authorization for a token of its own.
        offered = [_digest(one.encode("latin-1")) for one in (bearer, headers.get("x-api-key", "")) if one]
        if not offered:
            raise Unauthorized("Send a key as Authorization: Bearer … or as X-API-Key.")
        holder = None
        for name, known in self._keys:  # all of them, so that the time taken tells nothing
            for digest in offered:
                if hmac.compare_digest(digest, known):
                    holder = name
        if holder is None:
            raise Unauthorized("This key is not known here.")
        return Caller(holder, keyed=True)

    def _require_known_page(self, headers: Headers) -> None:
        """A page on any site can make a browser post to loopback; without keys, its origin is all there is to ask."""
        origin, allowed = headers.get("origin"), self._settings.cors_allow_origins
        if origin is None or "*" in allowed or origin in allowed or re.fullmatch(LOOPBACK_ORIGIN, origin):
            return
        raise ForbiddenOrigin("Name this page's origin in CORS_ALLOW_ORIGINS, or set SERVICE_API_KEYS.")


def _digest(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()
