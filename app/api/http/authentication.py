"""Who may come in. Every image costs money, so an open door is a bug.

The door stands before the body is read: nobody uploads a hundred megabytes to be told that they may not.
"""

import hashlib
import hmac
import re

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.http.cors import AllowedOrigins, is_loopback_authority
from app.api.http.middleware import PROBE_PATHS, route_path
from app.api.http.problems import Reporter
from app.domain.errors import CallerError, ForbiddenHost, Unauthorized
from app.domain.generation import Caller
from app.lib.loopback import is_loopback
from app.settings import Settings

_FROM_PROXY = re.compile(r"forwarded|via|x-real-ip|x-forwarded(-.*)?")
"""Headers that proxies add to a request for whoever called them."""

_DOCS = ("/", "/docs", "/openapi.json")


class AuthenticationMiddleware:
    def __init__(self, app: ASGIApp, *, origins: AllowedOrigins, settings: Settings, reporter: Reporter) -> None:
        self.app = app
        self._origins = origins
        self._reporter = reporter
        self._settings = settings
        self._keys = [(key.name, _digest(key.secret.get_secret_value().encode())) for key in settings.service_api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._is_public(route_path(scope)):
            return await self.app(scope, receive, send)
        try:
            caller = self._caller(scope)
        except CallerError as error:
            return await self._reporter.response(error, scope)(scope, receive, send)
        scope.setdefault("state", {})["caller"] = caller
        await self.app(scope, receive, send)

    def _is_public(self, path: str) -> bool:
        if path in PROBE_PATHS:
            return True
        if path == "/metrics":
            return self._settings.metrics_access == "open"
        documentation = path in _DOCS or path.startswith("/docs/")
        return documentation and self._settings.docs_access == "open"

    def _caller(self, scope: Scope) -> Caller:
        headers = Headers(scope=scope)
        if self._keys:
            return self._authenticate(headers)
        if self._settings.allow_anonymous:
            # A proxy may have changed `Host`, so nothing is asked of that.
            self._origins.require_known_page(headers, scope["method"], own_host=True)
            return Caller("anonymous")
        _require_from_this_machine(scope, headers)
        self._origins.require_known_page(headers, scope["method"], own_host=False)
        return Caller("local")

    def _authenticate(self, headers: Headers) -> Caller:
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


def _require_from_this_machine(scope: Scope, headers: Headers) -> None:
    """Without keys, the way that a request has taken is all there is to trust.

    A request that arrives at a loopback address may still be somebody else's. A web page's own name can be made to lead
    to this machine (DNS rebinding): then `Host` has that name. A proxy on this machine hands on requests from anywhere:
    then headers say so.

    Raises:
        Unauthorized: it has arrived at another address.
        ForbiddenHost: it is addressed to another name, or comes through a proxy.
    """
    server = scope.get("server")
    if server and server[1] is not None and not is_loopback(server[0]):
        raise Unauthorized("Without keys this service serves its own machine only. Set SERVICE_API_KEYS.")
    if proxied := next((name for name in headers.keys() if _FROM_PROXY.fullmatch(name)), None):  # noqa: SIM118
        raise ForbiddenHost(
            f"This request came through a proxy (its header {proxied[:60]} says so), and without keys this service "
            "serves its own machine only. Set SERVICE_API_KEYS; or ALLOW_ANONYMOUS=true, if the proxy authenticates "
            "callers.",
            cause=f"header {proxied[:60]}",
        )
    hosts = headers.getlist("host")
    if not all(map(is_loopback_authority, hosts)) or (not hosts and scope["http_version"] != "1.0"):
        named = ", ".join(hosts)[:200]
        raise ForbiddenHost(
            f"This request is addressed to {named or 'nobody'}, and without keys this service answers to localhost and "
            "loopback addresses only. Set SERVICE_API_KEYS; or ALLOW_ANONYMOUS=true, if a proxy authenticates callers.",
            cause=f"host {named!a}",
        )


def _digest(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()
