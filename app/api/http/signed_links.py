"""Requests with a signed link. They need no key, and a web page of any origin may use them."""

import re

from starlette.datastructures import MutableHeaders, QueryParams
from starlette.types import Message, Scope, Send

from app.api.http.paths import route_path

_PATH = re.compile(r"/generations/[^/]+/(image|events)")


def has_signature(scope: Scope) -> bool:
    """Return whether the request has a signature. The route must check it."""
    return (
        scope["method"] in ("GET", "HEAD")
        and _PATH.fullmatch(route_path(scope)) is not None
        and "signature" in QueryParams(scope["query_string"])
    )


def readable_from_any_page(send: Send) -> Send:
    """Return a `send` that allows pages of all origins to show and to read the response."""

    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["Access-Control-Allow-Origin"] = "*"
            headers["Cross-Origin-Resource-Policy"] = "cross-origin"
        await send(message)

    return with_headers
