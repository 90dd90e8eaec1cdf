"""Authentication by API key, or by the address of the request where keys are not required. Every image costs money.

It runs before the body is read, so an unauthorised upload is refused at once.
"""

import hashlib
import hmac
import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.http.cors import AllowedOrigins, is_loopback_authority
from app.api.http.limit_headers import limit_headers
from app.api.http.paths import PROBE_PATHS, is_playground, route_path
from app.api.http.problems import Reporter
from app.api.http.signed_links import has_signature, readable_from_any_page
from app.api.http.state import request_state
from app.domain.api_key import PREFIX, digest_of
from app.domain.caller import ANONYMOUS, LOCAL, Caller
from app.domain.errors import FieldError, ForbiddenHost, InvalidRequest, ServiceError, Unauthorized
from app.lib.loopback import is_loopback
from app.settings import Settings

_FROM_PROXY = re.compile(r"forwarded|via|x-real-ip|x-forwarded(-.*)?")
"""Headers in which proxies name their own client."""

KEY_HEADERS = ("x-api-key", "api-key")
"""Headers other than `Authorization` that can have the key. Clients of Azure send `api-key`."""

_DOCS = ("/docs", "/openapi.json")

_ADMIN = "/admin"

_WHITESPACE = " \t"
"""Around the value of a header it means nothing (RFC 9110, section 5.5)."""

_END_USER = re.compile("[!-~]{1,64}")


class AuthenticationMiddleware:
    """Sets the `caller` of each request, except on public paths, for signed links, which routes check, and for the
    routes of administrators."""

    def __init__(self, app: ASGIApp, *, origins: AllowedOrigins, settings: Settings, reporter: Reporter) -> None:
        self.app = app
        self._origins = origins
        self._reporter = reporter
        self._settings = settings
        admin_key = settings.admin_api_key
        self._admin = None if admin_key is None else digest_of(admin_key.get_secret_value())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._is_public(path := route_path(scope)):
            return await self.app(scope, receive, send)
        try:
            end_user = _end_user(scope)
            if has_signature(scope):
                return await self.app(scope, receive, readable_from_any_page(send))
            if self._admin is not None and (path == _ADMIN or path.startswith(f"{_ADMIN}/")):
                self._require_admin(scope)
                return await self.app(scope, receive, send)
            if path == "/metrics" and self._is_admin(_offered_keys(Headers(scope=scope))):
                return await self.app(scope, receive, send)
            caller = await self._caller(scope, end_user)
        except ServiceError as error:
            return await self._reporter.response(error)(scope, receive, send)
        request_state(scope)["caller"] = caller
        await self.app(scope, receive, _with_limit_headers(scope, send) if caller.limits.need_reservation else send)

    def _is_public(self, path: str) -> bool:
        if path in PROBE_PATHS or is_playground(path):
            return True
        if path == "/metrics":
            return self._settings.metrics_access == "open"
        documentation = path in _DOCS or path.startswith("/docs/")
        return documentation and self._settings.docs_access == "open"

    async def _caller(self, scope: Scope, end_user: str | None) -> Caller:
        headers = Headers(scope=scope)
        offered = _offered_keys(headers)
        if self._settings.keys_required or any(key.startswith(PREFIX) for key in offered):
            _require_any(offered)
            caller = await request_state(scope)["keys"].authenticate(offered, end_user)
            if caller is None:
                raise Unauthorized("This service does not know this key.")
            return caller
        if self._settings.allow_anonymous:
            # `Host` is not checked: a proxy may have changed it.
            self._origins.require_known_page(headers, scope["method"], own_host=True)
            return Caller(ANONYMOUS)
        _require_from_this_machine(scope, headers)
        self._origins.require_known_page(headers, scope["method"], own_host=False)
        return Caller(LOCAL)

    def _require_admin(self, scope: Scope) -> None:
        offered = _offered_keys(Headers(scope=scope))
        _require_any(offered)
        if not self._is_admin(offered):
            raise Unauthorized("This is not the key of the administrator.")

    def _is_admin(self, offered: list[str]) -> bool:
        admin = self._admin
        return admin is not None and any(hmac.compare_digest(digest_of(key), admin) for key in offered)


def _offered_keys(headers: Headers) -> list[str]:
    """Return the keys of a request. All headers are read: a gateway in front may use Authorization for a token of its
    own."""
    scheme, _, presented = headers.get("authorization", "").partition(" ")
    bearer = presented.strip(_WHITESPACE) if scheme.lower() == "bearer" else ""
    return [key for key in (bearer, *(headers.get(name, "").strip(_WHITESPACE) for name in KEY_HEADERS)) if key]


def _require_any(offered: list[str]) -> None:
    if not offered:
        raise Unauthorized("Send a key as Authorization: Bearer … or as X-API-Key.")


def _end_user(scope: Scope) -> str | None:
    """Return the end user that a gateway names, and note the hash of the name for the log.

    Raises:
        InvalidRequest: the name is too long, or has characters that are not visible.
    """
    named = [name.strip(_WHITESPACE) for name in Headers(scope=scope).getlist("x-end-user")]
    if not named:
        return None
    if len(named) > 1 or not _END_USER.fullmatch(named[0]):
        raise InvalidRequest([FieldError("X-End-User", "must be one name of 1 to 64 visible ASCII characters")])
    request_state(scope)["end_user_hash"] = hashlib.sha256(named[0].encode()).hexdigest()[:16]
    return named[0]


def _with_limit_headers(scope: Scope, send: Send) -> Send:
    """Return a `send` that adds the headers on what is left of the caller's limits, if the request has reserved."""
    state = request_state(scope)

    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            reservation = state.get("reservation")
            allowance = state.get("allowance") if reservation is None else reservation.allowance
            if allowance is not None:
                MutableHeaders(scope=message).update(limit_headers(allowance))
        await send(message)

    return with_headers


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
            "Without keys this service accepts requests from its own machine only. "
            "Set SERVICE_API_KEYS or REQUIRE_KEYS."
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
