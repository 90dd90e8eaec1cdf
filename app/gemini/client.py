"""The client of Gemini: it generates images and lists models."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, Self, cast

import httpcore2
import httpx2
from google import genai
from google.genai import types

from app.domain.catalogue import Model
from app.domain.generation import Generation, GenerationRequest
from app.domain.progress import GenerationProgress, Stage
from app.gemini import requests, response_schema, responses
from app.gemini.chunks import ResponseChunks, StreamObserver
from app.gemini.errors import as_service_errors
from app.gemini.tracing import Telemetry
from app.gemini.transport.exchange import ImageExchange, ResponseTooLarge
from app.gemini.transport.http import ConnectionPool
from app.gemini.transport.transport import ImageTransport
from app.lib.byte_budget import ByteBudget, Reservation
from app.lib.event_loop_scheduler import FairScheduler
from app.lib.tracebacks import clear_traceback_frames
from app.settings import Settings

_EXPECTED_BYTES = {"512": 500_000, "1K": 1_000_000, "2K": 4_000_000, "4K": 15_000_000}
"""Expected bytes of an image, by image size. Estimated on the safe side of the recorded responses."""

_EXPECTED_SIGNATURES_BYTES = 4_000_000
"""Expected bytes of the thought signatures of a response. Two parts of up to 2.2 MB have been recorded."""

_BUILD_COST = 4
"""Cost of building a request, in the units of `FairScheduler`. The SDK takes 1 to 2 ms to turn it into JSON."""


@dataclass(frozen=True, slots=True)
class ModelListing:
    """The models that Gemini offers to this service's credentials."""

    models: frozenset[str]
    """Model ids."""
    date: datetime | None
    """The time of Google's clock."""


class GeminiClient:
    """Generates images and lists models."""

    def __init__(self, settings: Settings, scheduler: FairScheduler, base_url: str | None = None) -> None:
        """Create the SDK's client from the settings alone.

        Args:
            settings: credentials, addresses and time limits.
            scheduler: limits the CPU work in one iteration of the event loop.
            base_url: replaces the address in the settings; a demo passes the emulator's.
        """
        self._timeout = settings.upstream_timeout_seconds
        self._memory_timeout = settings.queue_timeout_seconds
        self._scheduler = scheduler
        self._telemetry = Telemetry(vertex=settings.google_genai_use_vertexai)
        # A demo's emulator is on the loopback interface, so the proxies of the environment must not be used.
        pool = ConnectionPool(scheduler, trust_env=not settings.demo)
        self._http = httpx2.AsyncClient(
            transport=ImageTransport(pool, settings.max_upstream_body_bytes),
            trust_env=False,
            event_hooks={"request": [_set_timeouts(settings)]},
        )
        # Never used. Without it the SDK creates a synchronous client that reads proxies from the environment, ignores
        # NO_PROXY, and raises for SOCKS.
        self._unused = httpx2.Client(transport=httpx2.BaseTransport(), trust_env=False)
        self._sdk = _create_sdk(
            settings,
            base_url,
            httpx_async_client=self._http,  # otherwise the SDK uses aiohttp if it is installed
            httpx_client=self._unused,
            # For the SDK's web sockets, which are never used. Without it the SDK loads all CAs again: 50 ms at start.
            async_client_args={"ssl": pool.tls},
        )

    async def listing(self) -> ModelListing:
        """Ask Gemini for its models. The call is free and fails if the credentials are not valid.

        Raises:
            ServiceError: as for an image.
        """
        progress = GenerationProgress(self._timeout, Reservation(ByteBudget(0)))
        with as_service_errors(progress):
            pager = await self._sdk.aio.models.list(config=types.ListModelsConfig(page_size=1000))
            names = [response_schema.well_formed(model.name) async for model in pager if model.name]
        headers = (pager.sdk_http_response and pager.sdk_http_response.headers) or {}
        return ModelListing(frozenset(name.rpartition("/")[2] for name in names), _parse_date(headers.get("date")))

    async def generate(self, request: GenerationRequest, model: Model, progress: GenerationProgress) -> Generation:
        """Call Gemini once for the image that `request` describes.

        Raises:
            ServiceError: the call failed, or Gemini refused or sent no image.
        """
        await self._scheduler.slot(_BUILD_COST)
        progress.enter(Stage.FIRST_BYTE)
        with self._telemetry.attempt(model.id, request) as attempt:
            try:
                generation = await self._call(request, model, progress)
            except BaseException as error:
                progress.memory.resize(0)
                clear_traceback_frames(error)  # they refer to the images of the request and of the response
                raise
            progress.memory.resize(generation.held_bytes)
            attempt.record_generation(generation)
            return generation

    async def _call(self, request: GenerationRequest, model: Model, progress: GenerationProgress) -> Generation:
        in_chat = request.chat_context is not None
        expected = _EXPECTED_BYTES.get(request.image_size or "", _EXPECTED_BYTES["2K"])
        with ImageExchange(
            progress,
            expected_bytes=expected + (_EXPECTED_SIGNATURES_BYTES if in_chat else 0),
            memory_timeout_seconds=self._memory_timeout,
            keep_signatures=in_chat,
        ) as exchange:
            with as_service_errors(progress):
                async with aclosing(exchange):
                    chunks = await self._read_response(request, model, exchange, progress)
                response = chunks.response()
            generation = responses.to_generation(response, exchange, request, model)
        if chunks.warning:
            generation = replace(generation, warnings=(*generation.warnings, chunks.warning))
        if in_chat:
            sent = requests.user_parts(request)
            generation = replace(generation, request_parts=sent, chat_context=request.chat_context)
        return generation

    async def _read_response(
        self, request: GenerationRequest, model: Model, exchange: ImageExchange, progress: GenerationProgress
    ) -> ResponseChunks:
        """Return the response. If the call fails after the image has arrived, the response ends there."""
        observer = StreamObserver(exchange, request, progress.notify) if progress.is_streaming else None
        chunks = ResponseChunks(exchange, observer)
        try:
            async with asyncio.timeout(min(self._timeout, progress.remaining())):
                await self._send(request, model, exchange, progress, chunks)
        except (
            httpcore2.NetworkError,
            httpcore2.ProtocolError,
            httpcore2.TimeoutException,
            httpx2.DecodingError,
            TimeoutError,
            ResponseTooLarge,
        ):
            if not chunks.has_image_after_failure():
                raise
        return chunks

    async def _send(
        self,
        request: GenerationRequest,
        model: Model,
        exchange: ImageExchange,
        progress: GenerationProgress,
        chunks: ResponseChunks,
    ) -> None:
        """Send the request through the SDK and wait until the response has ended."""
        stream = progress.is_streaming
        remaining = progress.remaining()
        seconds = remaining if remaining < self._timeout else None
        config = requests.config(request, model, exchange, stream=stream, seconds=seconds)
        arguments: dict[str, Any] = {"model": model.id, "contents": requests.CONTENTS_IN_CONFIG, "config": config}
        if not stream:
            await self._sdk.aio.models.generate_content(**arguments)
            return
        # The SDK's chunks only signal that documents have arrived; `ResponseChunks` parses them.
        sdk_chunks = await self._sdk.aio.models.generate_content_stream(**arguments)
        async with aclosing(cast("AsyncGenerator[object]", sdk_chunks)) as signals:
            async for _ in signals:
                chunks.read_arrived()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._sdk.aio.aclose()
        await self._http.aclose()  # the SDK does not close clients that are passed to it
        self._unused.close()


def _create_sdk(settings: Settings, base_url: str | None, **http_clients: Any) -> genai.Client:
    vertex = settings.google_genai_use_vertexai and not settings.demo
    settings_url = settings.google_vertex_base_url if vertex else settings.google_gemini_base_url
    options = types.HttpOptions(
        api_version=settings.google_genai_api_version or ("v1beta1" if vertex else "v1beta"),
        base_url=base_url or settings_url,
        # Inflating gzip takes more CPU than any other step of a response, and saves little on base64 of a JPEG.
        headers={"Accept-Encoding": "identity"},
        # In milliseconds. It is the read timeout of httpx2, and Gemini's own deadline as X-Server-Timeout.
        timeout=int(settings.upstream_timeout_seconds * 1000),
        retry_options=types.HttpRetryOptions(attempts=1),
        **http_clients,
    )
    key = settings.gemini_api_key.get_secret_value() if settings.gemini_api_key else None
    if not vertex:
        return genai.Client(vertexai=False, api_key="demo" if settings.demo else key, http_options=options)
    if settings.google_cloud_project:
        project, location = settings.google_cloud_project, settings.google_cloud_location
        return genai.Client(vertexai=True, project=project, location=location, http_options=options)
    return genai.Client(vertexai=True, api_key=key, http_options=options)


def _parse_date(header: str | None) -> datetime | None:
    """Return the time of a `Date` header, or `None` if it is missing or, behind some gateways, not a date."""
    try:
        return parsedate_to_datetime(header) if header else None
    except ValueError:
        return None


def _set_timeouts(settings: Settings) -> Callable[[httpx2.Request], Awaitable[None]]:
    """Return a hook that sets a timeout for each phase of a request; the SDK has one timeout for all of them."""
    limits = {
        "connect": settings.upstream_connect_seconds,
        "read": settings.upstream_first_byte_seconds,
        "stall": settings.upstream_stall_seconds,
    }

    async def set_timeouts(request: httpx2.Request) -> None:
        timeouts = request.extensions.get("timeout")
        if timeouts is None:
            return
        # A stream is silent between two events while Gemini generates.
        is_stream = request.url.path.endswith(":streamGenerateContent")
        between = {"between_events": settings.upstream_first_byte_seconds} if is_stream else {}
        request.extensions["timeout"] = {**timeouts, **limits, **between}

    return set_timeouts
