"""CORS: which web pages may call this service from a browser, and which response headers they may read."""

import re

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from app.api.http.problems import Reporter
from app.domain.errors import ForbiddenOrigin
from app.lib.loopback import is_loopback
from app.settings import Settings

EXPOSED_HEADERS = (
    "X-Request-Id", "X-Demo", "Retry-After", "Content-Disposition", "X-Generation-Id", "X-Model", "X-Model-Version",
    "X-Cost-Usd", "X-Finish-Reason", "X-Image-Width", "X-Image-Height", "X-Usage", "X-Text", "X-Thoughts", "X-Warnings",
    "X-Grounding", "X-Omitted", "X-Upstream-Attempts", "X-Should-Retry", "X-Chat-Id", "X-Turn", "Location", "ETag",
    "Accept-Ranges", "Content-Range", "Idempotent-Replayed", "Preference-Applied",
    "RateLimit-Policy", "RateLimit", "X-Budget-Remaining-Usd",
)  # fmt: skip
"""Response headers that pages of other origins may read."""

_AUTHORITY = re.compile(r"(?P<name>[^\s:@/\[\]]+|\[[0-9a-f:.]+\])(:\d{0,5})?", re.IGNORECASE)


def is_loopback_authority(authority: str) -> bool:
    """Return whether a host with an optional port, as in `Host` or `Origin`, is a loopback name or address."""
    match = _AUTHORITY.fullmatch(authority.strip(" \t"))
    name = match["name"].strip("[]").lower().removesuffix(".") if match else ""
    return name.endswith(".localhost") or is_loopback(name)


class AllowedOrigins:
    """The web origins whose pages may call the service."""

    def __init__(self, settings: Settings) -> None:
        self._listed = frozenset(settings.cors_allow_origins)
        self._own_machine = not settings.guarded

    def __contains__(self, origin: str) -> bool:
        if "*" in self._listed or origin in self._listed:
            return True
        # For example a frontend under development. Pages of other sites never have a loopback origin.
        scheme, _, authority = origin.partition("://")
        return self._own_machine and scheme in ("http", "https") and is_loopback_authority(authority)

    def require_known_page(self, headers: Headers, method: str, *, own_host: bool) -> None:
        """Refuse a request that a browser sends for a page of another site, for example a form or an `<img>`.

        Without keys, any page could send such requests. Clients other than browsers send none of these headers.

        Args:
            headers: of the request.
            method: of the request.
            own_host: also allow pages whose origin is the host that the request is addressed to.

        Raises:
            ForbiddenOrigin: the page's origin is not allowed.
        """
        origin, site = ", ".join(headers.getlist("origin")), headers.get("sec-fetch-site")
        if "origin" in headers:
            if origin in self or (own_host and _is_same_origin(origin, site, headers.get("host", ""))):
                return
        elif site in (None, "same-origin", "none") or _is_navigation(headers, method):
            return
        else:
            # Browsers load images without `Origin`. `Referer` has the origin of most pages.
            referer = re.match(r"https?://[^/?#\s]+", headers.get("referer", ""))
            origin = referer[0] if referer else "null"
            if origin in self:
                return
        raise forbidden_origin(origin)


def _is_same_origin(origin: str, site: str | None, host: str) -> bool:
    """Compare the hosts if the browser sends no `Sec-Fetch-Site`: old browsers, and all browsers without TLS."""
    if site is not None:
        return site == "same-origin"
    return bool(host) and origin.lower() in (f"http://{host.lower()}", f"https://{host.lower()}")


def _is_navigation(headers: Headers, method: str) -> bool:
    """Return whether a user follows a link. The page with the link cannot read the response."""
    document = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    return document and method in ("GET", "HEAD")


def forbidden_origin(origin: str) -> ForbiddenOrigin:
    """Return the error for a page of `origin`."""
    page = "A page whose origin is null" if origin == "null" else f"A page of {origin[:200]}"
    return ForbiddenOrigin(
        f"{page} may not call this service. The service's operator can add the page's origin to CORS_ALLOW_ORIGINS.",
        cause=f"origin {origin[:200]!a} is not in CORS_ALLOW_ORIGINS",
    )


class CrossOriginMiddleware(CORSMiddleware):
    """CORS for allowed origins. Preflight requests of other origins are refused with a problem document, and logged."""

    def __init__(self, app: ASGIApp, *, origins: AllowedOrigins, settings: Settings, reporter: Reporter) -> None:
        super().__init__(
            app,
            allow_origins=settings.cors_allow_origins,
            allow_methods=["GET", "HEAD", "POST", "DELETE"],
            allow_headers=["*"],
            allow_private_network=True,  # the service may be in one, and its operator has listed the origin
            expose_headers=EXPOSED_HEADERS,
        )
        self._origins = origins
        self._reporter = reporter

    def is_allowed_origin(self, origin: str) -> bool:
        return origin in self._origins

    def preflight_response(self, request_headers: Headers) -> Response:
        origin = request_headers["origin"]
        if origin not in self._origins:
            return self._reporter.response(forbidden_origin(origin))
        return super().preflight_response(request_headers)
