"""The one client of the process, and the one call the service makes with it."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Self, cast

import httpcore2
import httpx2
from google import genai
from google.genai import types

from app.domain.catalogue import Model
from app.domain.generation import Generation, GenerationRequest
from app.domain.progress import GenerationProgress, Stage
from app.gemini import requests, response_schema, responses
from app.gemini.chunks import ResponseChunks
from app.gemini.errors import as_service_errors
from app.gemini.responses import StreamObserver
from app.gemini.tracing import Telemetry
from app.gemini.transport.exchange import ImageExchange, ResponseTooLarge, Trip
from app.gemini.transport.http import ConnectionPool
from app.gemini.transport.transport import ImageTransport
from app.lib.byte_budget import ByteBudget, Reservation
from app.lib.idle_trim import clear_traceback_frames
from app.lib.scheduler import FairScheduler
from app.settings import Settings

_EXPECTED_BYTES = {"512": 500_000, "1K": 1_000_000, "2K": 4_000_000, "4K": 15_000_000}
"""What an image takes, by image size. No source has measured it; these are on the safe side of what was recorded."""

_EXPECTED_SIGNATURES_BYTES = 4_000_000
"""What the thought signatures of an answer take: two parts of up to 2.2 MB have been recorded."""

_BUILD_COST = 4
"""The SDK takes one to two milliseconds to turn a request into JSON; in the units of `FairScheduler`."""


@dataclass(frozen=True, slots=True)
class ModelListing:
    """What Gemini offers these credentials."""

    models: frozenset[str]
    """Their ids."""
    date: datetime | None
    """The time by Google's clock."""


class GeminiClient:
    """Gemini as the rest of the service sees it."""

    def __init__(self, settings: Settings, scheduler: FairScheduler, base_url: str | None = None) -> None:
        """Build the SDK's client from the settings alone.

        Args:
            settings: credentials, addresses and the deadline.
            scheduler: limits how much preparing and reading one iteration of the event loop does.
            base_url: an address that goes before the settings' own; the emulator's, in a demo.
        """
        self._timeout = settings.upstream_timeout_seconds
        self._room_timeout = settings.queue_timeout_seconds
        self._scheduler = scheduler
        self._telemetry = Telemetry(vertex=settings.google_genai_use_vertexai)
        # Named, not detected: with aiohttp installed the SDK would change transports by itself. A demo's emulator is on
        # loopback, where the environment's proxies have nothing to do.
        network = ConnectionPool(scheduler, trust_env=not settings.demo)
        self._http = httpx2.AsyncClient(
            transport=ImageTransport(network, settings.max_upstream_body_bytes),
            trust_env=False,
            event_hooks={
                "request": [
                    _limits(
                        settings.upstream_connect_seconds,
                        settings.upstream_first_byte_seconds,
                        settings.upstream_stall_seconds,
                    )
                ]
            },
        )
        # Nothing is called with it, and it could not call. The SDK would make one of its own, which reads proxies from
        # the environment, also those that NO_PROXY exempts, and raises on SOCKS.
        self._unused = httpx2.Client(transport=httpx2.BaseTransport(), trust_env=False)
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
            httpx_client=self._unused,
            # The SDK's web sockets, which nothing uses, would load all CAs once more, which takes 50 ms at start.
            async_client_args={"ssl": network.tls},
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

    async def listing(self) -> ModelListing:
        """Ask Gemini which models there are: it costs nothing, and needs credentials that are good.

        Raises:
            ServiceError: as for an image.
        """
        progress = GenerationProgress(self._timeout, Reservation(ByteBudget(0)))
        with as_service_errors(progress):
            pager = await self._sdk.aio.models.list(config=types.ListModelsConfig(page_size=1000))
            names = [response_schema.well_formed(model.name) async for model in pager if model.name]
        headers = pager.sdk_http_response.headers if pager.sdk_http_response else None
        said = (headers or {}).get("date")
        return ModelListing(frozenset(name.rpartition("/")[2] for name in names), _date(said))

    async def generate(self, request: GenerationRequest, model: Model, progress: GenerationProgress) -> Generation:
        """Ask Gemini once for the image that `request` describes.

        Raises:
            ServiceError: every way this can fail, refusals and answers without an image included.
        """
        await self._scheduler.slot(_BUILD_COST)
        progress.enter(Stage.FIRST_BYTE)
        expected = _EXPECTED_BYTES.get(request.image_size or "", _EXPECTED_BYTES["2K"])
        in_chat = request.chat_context is not None
        trip = Trip(progress, expected + (_EXPECTED_SIGNATURES_BYTES if in_chat else 0), self._room_timeout)
        with self._telemetry.attempt(model.id, request) as attempt:
            try:
                with ImageExchange(trip, keep_signatures=in_chat) as exchange:
                    with as_service_errors(progress):
                        async with aclosing(exchange):
                            chunks = await self._arrived(request, model, exchange, progress)
                        answer = chunks.answer()
                    generation = responses.to_generation(answer, exchange, request, model)
                    if chunks.warning:
                        generation = replace(generation, warnings=(*generation.warnings, chunks.warning))
            except BaseException as error:
                progress.memory.resize(0)
                clear_traceback_frames(error)  # they refer to the request's and the response's images
                raise
            if in_chat:
                sent = requests.user_parts(request)
                generation = replace(generation, request_parts=sent, chat_context=request.chat_context)
            progress.memory.resize(generation.held_bytes)
            attempt.answered(generation)
            return generation

    async def _arrived(
        self, request: GenerationRequest, model: Model, exchange: ImageExchange, progress: GenerationProgress
    ) -> ResponseChunks:
        """Ask, and return what Gemini answers once all of it has arrived, or as much as is needed."""
        streamed = progress.is_streaming
        chunks = ResponseChunks(exchange, StreamObserver(exchange, request, progress.notify).see if streamed else None)
        try:
            async with asyncio.timeout(min(self._timeout, progress.remaining())):
                await (self._streamed if streamed else self._asked)(request, model, exchange, progress, chunks)
        except (
            httpcore2.NetworkError,
            httpcore2.ProtocolError,
            httpcore2.TimeoutException,
            httpx2.DecodingError,
            TimeoutError,
            ResponseTooLarge,
        ):
            if not chunks.break_off():
                raise
        return chunks

    async def _asked(
        self,
        request: GenerationRequest,
        model: Model,
        exchange: ImageExchange,
        progress: GenerationProgress,
        _: ResponseChunks,
    ) -> None:
        await self._sdk.aio.models.generate_content(
            model=model.id,
            contents=requests.CONTENTS_IN_CONFIG,
            config=requests.config(request, model, exchange, seconds=self._less_than_usual(progress)),
        )

    async def _streamed(
        self,
        request: GenerationRequest,
        model: Model,
        exchange: ImageExchange,
        progress: GenerationProgress,
        chunks: ResponseChunks,
    ) -> None:
        """The SDK drives the stream; what is in it we read ourselves, as everywhere."""
        stream = await self._sdk.aio.models.generate_content_stream(
            model=model.id,
            contents=requests.CONTENTS_IN_CONFIG,
            config=requests.config(request, model, exchange, stream=True, seconds=self._less_than_usual(progress)),
        )
        async with aclosing(cast("AsyncGenerator[object]", stream)) as signs:
            async for _ in signs:
                chunks.take()

    def _less_than_usual(self, progress: GenerationProgress) -> float | None:
        """The seconds that are left, where they are fewer than a call may take anyway."""
        left = progress.remaining()
        return left if left < self._timeout else None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._sdk.aio.aclose()
        await self._http.aclose()  # the SDK leaves clients that it was given open
        self._unused.close()


def _date(header: str | None) -> datetime | None:
    """The time in a `Date` header, or `None` if it is missing or no date, as some gateways have it."""
    try:
        return parsedate_to_datetime(header) if header else None
    except ValueError:
        return None


def _limits(connect: float, first_byte: float, stall: float) -> Callable[[httpx2.Request], Awaitable[None]]:
    """The SDK knows one time limit for everything; minutes are for drawing, not for a handshake or a pause."""

    async def limit(request: httpx2.Request) -> None:
        limits = request.extensions.get("timeout")
        if limits is None:
            return
        # Between its events a stream is silent while Gemini draws.
        streams = request.url.path.endswith(":streamGenerateContent")
        between = {"between_events": first_byte} if streams else {}
        request.extensions["timeout"] = {**limits, "connect": connect, "read": first_byte, "stall": stall, **between}

    return limit
