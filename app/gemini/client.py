"""The one client of the process, and the one call the service makes with it."""

import asyncio
from typing import Self

import httpx2
from google import genai
from google.genai import types

from app.catalogue import Model
from app.domain import Generation, GenerationRequest
from app.gemini import answers, requests
from app.gemini.failures import as_service_errors
from app.gemini.network import Network
from app.gemini.transport import Exchange, LiftingTransport
from app.pace import Pace
from app.settings import Settings

CONNECT_TIMEOUT_SECONDS = 10.0

_PREPARING = 4
"""The SDK takes one to two milliseconds to turn a request into JSON; in the units of `Pace`."""


class Gemini:
    """Gemini as the rest of the service sees it."""

    def __init__(self, settings: Settings, pace: Pace, base_url: str | None = None) -> None:
        """Build the SDK's client from the settings alone.

        Args:
            settings: credentials, addresses and the deadline.
            pace: in turns of which requests are prepared and answers read.
            base_url: an address that goes before the settings' own; the emulator's, in a demo.
        """
        self._timeout = settings.upstream_timeout_seconds
        self._pace = pace
        # Named, not detected: with aiohttp installed the SDK would change transports by itself. A demo's emulator is on
        # loopback, where the environment's proxies have nothing to do.
        network = Network(pace, trust_env=not settings.demo)
        self._http = httpx2.AsyncClient(
            transport=LiftingTransport(network, settings.max_upstream_body_bytes),
            trust_env=False,
            event_hooks={"request": [_connect_quickly]},
        )
        vertex = settings.google_genai_use_vertexai and not settings.demo
        key = settings.gemini_api_key.get_secret_value() if settings.gemini_api_key else None
        own_url = settings.google_vertex_base_url if vertex else settings.google_gemini_base_url
        options = types.HttpOptions(
            api_version=settings.google_genai_api_version or ("v1beta1" if vertex else "v1beta"),
            base_url=base_url or own_url,
            # Inflating gzip costs more than any other step of an answer, and base64 of a JPEG gains little from it.
            headers={"Accept-Encoding": "identity"},
            # Milliseconds. Per read in httpx2, and Gemini's own deadline as X-Server-Timeout.
            timeout=int(self._timeout * 1000),
            retry_options=types.HttpRetryOptions(attempts=1),
            httpx_async_client=self._http,
        )
        if not vertex:
            self._sdk = genai.Client(vertexai=False, api_key="demo" if settings.demo else key, http_options=options)
        elif settings.google_cloud_project:
            self._sdk = genai.Client(
                vertexai=True,
                project=settings.google_cloud_project,
                location=settings.google_cloud_location,
                http_options=options,
            )
        else:
            self._sdk = genai.Client(vertexai=True, api_key=key, http_options=options)

    async def generate(self, request: GenerationRequest, model: Model) -> Generation:
        """Ask Gemini once for the image that `request` describes.

        Raises:
            ServiceError: every way this can fail, refusals and answers without an image included.
        """
        await self._pace.turn(_PREPARING)
        with Exchange() as exchange:
            contents, config = requests.contents(request, exchange), requests.config(request, model)
            with as_service_errors(self._timeout):
                async with asyncio.timeout(self._timeout):
                    response = await self._sdk.aio.models.generate_content(
                        model=model.id, contents=contents, config=config
                    )
            raw = response.sdk_http_response
            return answers.generation((raw and raw.body) or "", exchange, request, model)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._sdk.aio.aclose()
        await self._http.aclose()  # the SDK leaves a client that it was given open


async def _connect_quickly(request: httpx2.Request) -> None:
    """Minutes are for drawing, not for a handshake; the SDK knows one time limit for everything."""
    limits = request.extensions.get("timeout")
    if limits is not None:
        request.extensions["timeout"] = {**limits, "connect": CONNECT_TIMEOUT_SECONDS}
