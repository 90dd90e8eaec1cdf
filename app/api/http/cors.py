"""Which web pages may make a browser call this service, and what their browsers are told."""

import re

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from app.api.http.problems import Reporter
from app.api.images.rendering import EXPOSED_HEADERS
from app.domain.errors import ForbiddenOrigin
from app.lib.loopback import is_loopback
from app.settings import Settings

_AUTHORITY = re.compile(r"(?P<name>[^\s:@/\[\]]+|\[[0-9a-f:.]+\])(:\d{0,5})?", re.IGNORECASE)


def is_loopback_authority(authority: str) -> bool:
    """Whether a `Host` header, or the host and port of an origin, names this machine by a name of its own."""
    match = _AUTHORITY.fullmatch(authority.strip(" \t"))
    name = match["name"].strip("[]").lower().removesuffix(".") if match else ""
    return name.endswith(".localhost") or is_loopback(name)


class AllowedOrigins:
    """The web origins whose pages may call."""

    def __init__(self, settings: Settings) -> None:
        self._listed = frozenset(settings.cors_allow_origins)
        self._own_machine = not settings.guarded

    def __contains__(self, origin: str) -> bool:
        if "*" in self._listed or origin in self._listed:
            return True
        # A frontend under development, for instance. Pages of other sites never have such an origin.
        scheme, _, authority = origin.partition("://")
        return self._own_machine and scheme in ("http", "https") and is_loopback_authority(authority)

    def require_known_page(self, headers: Headers, method: str, *, own_host: bool) -> None:
        """Refuse a request that a browser makes for a page of another site: a form that is sent, an image shown.

        Without keys any page could do that. Clients that are no browsers send none of the headers that are looked at.

        Args:
            headers: of the request.
            method: of the request.
            own_host: whether pages from the host that the request is addressed to are known, too.

        Raises:
            ForbiddenOrigin: that is so.
        """
        origin, site = ", ".join(headers.getlist("origin")), headers.get("sec-fetch-site")
        if "origin" in headers:
            if origin in self or (own_host and _is_same_origin(origin, site, headers.get("host", ""))):
                return
        elif site in (None, "same-origin", "none") or _is_navigation(headers, method):
            return
        else:
            # Images of a page are asked for without `Origin`; most pages let `Referer` tell their origin.
            referer = re.match(r"https?://[^/?#\s]+", headers.get("referer", ""))
            origin = referer[0] if referer else "null"
            if origin in self:
                return
        raise forbidden_origin(origin)


def _is_same_origin(origin: str, site: str | None, host: str) -> bool:
    """What the browser says counts; old ones, and all of them without TLS, do not say it."""
    if site is not None:
        return site == "same-origin"
    return bool(host) and origin.lower() in (f"http://{host.lower()}", f"https://{host.lower()}")


def _is_navigation(headers: Headers, method: str) -> bool:
    """Whether somebody follows a link. The page with the link gets to see nothing of what they find."""
    document = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    return document and method in ("GET", "HEAD")


def forbidden_origin(origin: str) -> ForbiddenOrigin:
    """What a page of `origin`, and the log, are told."""
    page = "A page whose origin is null" if origin == "null" else f"A page of {origin[:200]}"
    return ForbiddenOrigin(
        f"{page} may not call this service. Its operator can name the page's origin in CORS_ALLOW_ORIGINS.",
        cause=f"origin {origin[:200]!a} is not in CORS_ALLOW_ORIGINS",
    )


class CrossOriginMiddleware(CORSMiddleware):
    """CORS for pages of allowed origins. The preflight of any other page is refused with a problem, and logged."""

    def __init__(self, app: ASGIApp, *, origins: AllowedOrigins, settings: Settings, reporter: Reporter) -> None:
        super().__init__(
            app,
            allow_origins=settings.cors_allow_origins,
            allow_methods=["GET", "HEAD", "POST", "DELETE"],
            allow_headers=["*"],
            allow_private_network=True,  # the service may be on one, and its operator has listed the page
            expose_headers=EXPOSED_HEADERS,
        )
        self._origins = origins
        self._reporter = reporter

    def is_allowed_origin(self, origin: str) -> bool:
        return origin in self._origins

    def preflight_response(self, request_headers: Headers) -> Response:
        origin = request_headers["origin"]
        if origin not in self._origins:
            return self._reporter.response(forbidden_origin(origin), {})
        return super().preflight_response(request_headers)
