"""Absolute links to a recorded generation. Those to its image and its events are signed, and work without a key.

A signature covers the purpose of the link, the id of the generation, and the time at which the link expires.
"""

import base64
import hmac
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from fastapi import Request

from app.api.http.state import request_state
from app.domain.errors import ExpiredLink, InvalidLink
from app.domain.recorded import RecordedGeneration
from app.settings import Settings

Purpose = Literal["image", "events"]


@dataclass(frozen=True, slots=True)
class LinkMaker:
    """Makes the links of one response, and checks the signatures of links."""

    base_url: str
    """The service's address, without a slash at the end."""
    key: bytes
    """Signs the links."""
    ttl_seconds: float
    """Time for which a link works at most. It works for half of this time at least."""
    latest: float = math.inf
    """Unix time after which no link works, so that a link does not lead to later ones."""

    def generation(self, id_: str) -> str:
        """Return the link to a generation. It works only with the key of its caller."""
        return f"{self.base_url}/generations/{id_}"

    def image(self, generation: RecordedGeneration, index: int = 0) -> str:
        """Return a signed link to the image with this index."""
        return self._signed("image", generation) + (f"&index={index}" if index else "")

    def events(self, generation: RecordedGeneration) -> str:
        """Return a signed link to the events of a generation."""
        return self._signed("events", generation)

    def expires_at(self, generation: RecordedGeneration) -> int:
        """Return the Unix time at which links to a generation expire that are made now.

        It stays the same for half of `ttl_seconds`, so that responses that repeat each other have the same bytes.
        """
        since = generation.finished_at or generation.created_at
        half = self.ttl_seconds / 2
        past_halves = max(0, math.floor((time.time() - since) / half))
        return math.ceil(min(since + self.ttl_seconds + past_halves * half, self.latest))

    def check(self, purpose: Purpose, id_: str, query: Mapping[str, str]) -> None:
        """Check the signature of a link.

        Args:
            purpose: of the link.
            id_: of the generation.
            query: parameters of the link.

        Raises:
            InvalidLink: the link is not one of this service.
            ExpiredLink: the link has expired.
        """
        expires, signature = query.get("expires", ""), query.get("signature", "")
        expected = self._signature(purpose, id_, expires)
        if not hmac.compare_digest(signature.encode(), expected.encode()):
            raise InvalidLink("This link was changed, or this service has not made it.")
        if time.time() > int(expires):
            raise ExpiredLink("This link has expired. Get the generation again for a new one.")

    def _signed(self, purpose: Purpose, generation: RecordedGeneration) -> str:
        expires = str(self.expires_at(generation))
        signature = self._signature(purpose, generation.id, expires)
        return f"{self.generation(generation.id)}/{purpose}?expires={expires}&signature={signature}"

    def _signature(self, purpose: Purpose, id_: str, expires: str) -> str:
        message = "\n".join((purpose, id_, expires)).encode()
        digest = hmac.digest(self.key, message, "sha256")
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")


async def link_maker(request: Request) -> LinkMaker:
    """Return what makes the links of the response to a request."""
    state = request_state(request.scope)
    settings, key = state["settings"], await state["recorded"].signing_key()
    return LinkMaker(base_url(request, settings), key, settings.image_url_ttl.total_seconds())


def generation_path(id_: str, request: Request) -> str:
    """Return the path of a generation, with the path prefix that the caller of this request uses."""
    return f"{request.scope.get('root_path', '').rstrip('/')}/generations/{id_}"


def base_url(request: Request, settings: Settings) -> str:
    """Return the service's address in links, without a slash at the end: `PUBLIC_URL`, or the request's own."""
    return (settings.public_url or str(request.base_url)).rstrip("/")
