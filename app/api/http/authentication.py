"""Authentication by API key, or by the address of the request where no keys are set. Every image costs money.

It runs before the body is read, so an unauthorised upload is refused at once.
"""

import hashlib
import hmac
import re

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.http.cors import AllowedOrigins, is_loopback_authority
from app.api.http.paths import PROBE_PATHS, route_path
from app.api.http.problems import Reporter
from app.api.http.signed_links import has_signature, readable_from_any_page
from app.api.http.state import request_state
from app.domain.caller import Caller
from app.domain.errors import CallerError, ForbiddenHost, Unauthorized
from app.lib.loopback import is_loopback
from app.settings import Settings

_FROM_PROXY = re.compile(r"forwarded|via|x-real-ip|x-forwarded(-.*)?")
"""Headers in which proxies name their own client."""

KEY_HEADERS = ("x-api-key", "api-key")
"""Headers other than `Authorization` that can have the key. Clients of Azure send `api-key`."""

_DOCS = ("/", "/docs", "/openapi.json")


class AuthenticationMiddleware:
    """Sets the `caller` of each request, except on public paths and for signed links, which routes check."""

    def __init__(self, app: ASGIApp, *, origins: AllowedOrigins, settings: Settings, reporter: Reporter) -> None:
        self.app = app
        self._origins = origins
        self._reporter = reporter
        self._settings = settings
        self._keys = [(key.name, _digest(key.secret.get_secret_value().encode())) for key in settings.service_api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._is_public(route_path(scope)):
            return await self.app(scope, receive, send)
        if has_signature(scope):
            return await self.app(scope, receive, readable_from_any_page(send))
        try:
            caller = self._caller(scope)
        except CallerError as error:
            return await self._reporter.response(error)(scope, receive, send)
        request_state(scope)["caller"] = caller
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
        if self._settings.keys_required:
            return self._authenticate(headers)
        if self._settings.allow_anonymous:
            # `Host` is not checked: a proxy may have changed it.
            self._origins.require_known_page(headers, scope["method"], own_host=True)
            return Caller("anonymous")
        _require_from_this_machine(scope, headers)
        self._origins.require_known_page(headers, scope["method"], own_host=False)
        return Caller("local")

    def _authenticate(self, headers: Headers) -> Caller:
        scheme, _, presented = headers.get("authorization", "").partition(" ")
        bearer = presented.strip() if scheme.lower() == "bearer" else ""
        # All headers are read: a gateway in front may use Authorization for a token of its own.
        keys = (bearer, *(headers.get(name, "") for name in KEY_HEADERS))
        offered = [_digest(key.encode("latin-1")) for key in keys if key]
        if not offered:
            raise Unauthorized("Send a key as Authorization: Bearer … or as X-API-Key.")
        found = None
        for name, known in self._keys:  # compare all of them, so that the time does not depend on the key
            for digest in offered:
                if hmac.compare_digest(digest, known):
                    found = name
        if found is None:
            raise Unauthorized("This service does not know this key.")
        return Caller(found, keyed=True)


def _require_from_this_machine(scope: Scope, headers: Headers) -> None:
    """Refuse a request that did not come directly from this machine.

    A request to a loopback address can still come from elsewhere. A web page's domain can resolve to this machine (DNS
    rebinding); then `Host` has that domain. A proxy on this machine forwards requests from anywhere; then it adds
    headers.

    Raises:
        Unauthorized: the request arrived at an address other than loopback.
        ForbiddenHost: `Host` is not a loopback name, or the request came through a proxy.
    """
    server = scope.get("server")
    if server and server[1] is not None and not is_loopback(server[0]):
        raise Unauthorized(
            "Without keys this service accepts requests from its own machine only. Set SERVICE_API_KEYS."
        )
    if proxied := next((name for name in headers.keys() if _FROM_PROXY.fullmatch(name)), None):  # noqa: SIM118
        raise ForbiddenHost(
            f"This request came through a proxy, because it has the header {proxied[:60]}. Without keys this service "
            "accepts requests from its own machine only. Set SERVICE_API_KEYS, or ALLOW_ANONYMOUS=true if the proxy "
            "authenticates callers.",
            cause=f"header {proxied[:60]}",
        )
    hosts = headers.getlist("host")
    if not all(map(is_loopback_authority, hosts)) or (not hosts and scope["http_version"] != "1.0"):
        named = ", ".join(hosts)[:200]
        raise ForbiddenHost(
            f"This request is addressed to {named or 'no host'}. Without keys this service accepts localhost and "
            "loopback addresses only. Set SERVICE_API_KEYS, or ALLOW_ANONYMOUS=true if a proxy authenticates callers.",
            cause=f"host {named!a}",
        )


def _digest(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()
