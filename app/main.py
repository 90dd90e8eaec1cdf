"""The application, assembled: services, routes and middleware. `app/server/` runs it."""

import logging
import os
import tempfile
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager

from fastapi import FastAPI

from app import __version__
from app.api import models, operations
from app.api.chats import images as chat_images
from app.api.chats import routes as chat_routes
from app.api.chats import turns as chat_turns
from app.api.chats.request import TurnForm
from app.api.generations import routes as generation_routes
from app.api.generations import webhooks as webhook_api
from app.api.http import openapi, problems
from app.api.http.authentication import AuthenticationMiddleware
from app.api.http.cors import AllowedOrigins, CrossOriginMiddleware
from app.api.http.forms import FORM_LIMITS
from app.api.http.middleware import RequestHeadMiddleware, RequestIdMiddleware, UnexpectedErrorMiddleware
from app.api.http.paths import PROBE_PATHS, route_path
from app.api.http.state import State
from app.api.http.uploads import UploadLimiter
from app.api.images import routes
from app.api.keys import routes as admin_routes
from app.api.keys import usage
from app.api.openai import errors as openai_errors
from app.api.openai import models as openai_models
from app.api.openai import routes as openai_routes
from app.api.web.routes import playground_router
from app.gemini import GeminiClient
from app.lib import logs
from app.lib.byte_budget import ByteBudget
from app.lib.event_loop_scheduler import FairScheduler
from app.lib.idle_trim import IdleMemoryTrimmer
from app.service.callers.administration import KeyAdministration
from app.service.callers.budget_monitor import BudgetMonitor
from app.service.callers.keys import KeyRegistry
from app.service.callers.spending import CallerSpending
from app.service.chats.service import ChatService
from app.service.cleanup import StorageCleanup
from app.service.conversion import ImageConverter
from app.service.generation.references import ReferenceValidator
from app.service.generation.runs import GenerationRuns
from app.service.generation.service import ImageService
from app.service.leases import LeaseKeeper
from app.service.metrics import Metrics
from app.service.recorded.executor import Executor
from app.service.recorded.queue_monitor import QueueMonitor
from app.service.recorded.service import RecordedGenerations
from app.service.resilience.admission import AdmissionController
from app.service.resilience.circuit_breaker import CircuitBreakers
from app.service.resilience.retries import Retrier, RetryBudget
from app.service.scraped_metrics import scraped_metrics
from app.service.webhooks.service import WebhookDeliveries
from app.settings import Settings, UnsafeConfiguration
from app.store import Storage

log = logging.getLogger(__name__)

_PIXEL_TOLERANCE = 1.25
"""Gemini's pixel sizes are nominal. An image with more than this times the largest of them is not decoded."""


def create_app(settings: Settings | None = None) -> FastAPI:
    """Build the application.

    `python -m app` and `app.server.asgi:create_app` check the environment more thoroughly, and then call this function.

    Args:
        settings: read from the environment if left out.

    Raises:
        UnsafeConfiguration: there are no credentials for Gemini, and `DEMO` is not set.
        pydantic.ValidationError: a setting of the environment is invalid.
    """
    settings = settings or Settings()
    if settings.missing_credentials:
        raise UnsafeConfiguration(settings.missing_credentials)
    logs.configure(settings.log_level, settings.log_format)
    # Python takes another folder without a warning if this one is full when Python first needs it.
    tempfile.tempdir = os.environ.get("TMPDIR") or tempfile.tempdir
    reporter = problems.Reporter(log_sensitive=settings.log_sensitive, formats=[openai_errors.FORMAT])
    admission = AdmissionController(settings.max_in_flight, settings.max_queued, settings.queue_timeout_seconds)

    app = FastAPI(
        title="Gemini images",
        version=__version__,
        summary="Text to image, editing and search-grounded images with Google's Gemini models.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        openapi_url=None if settings.docs_access == "off" else "/openapi.json",
        lifespan=lambda _: open_services(settings, admission, reporter),
        webhooks=webhook_api.descriptions,
        generate_unique_id_function=lambda route: route.name,
        # FastAPI's log records quote exceptions, which can quote prompts. OTEL_…_ENDPOINT names the exporters.
        telemetry={"auto_configure": True, "logs": False, "exclude": lambda scope: route_path(scope) in PROBE_PATHS},
    )
    app.state.admission = admission
    problems.install(app, reporter)
    if settings.docs_access != "off":
        openapi.install(app, keyed=settings.keys_required, form=TurnForm)
    add_routes(app, settings)
    add_middleware(app, settings, reporter)
    return app


@asynccontextmanager
async def open_services(
    settings: Settings, admission: AdmissionController, reporter: problems.Reporter
) -> AsyncGenerator[State]:
    """Open what lives as long as the process, and close it in reverse order."""
    async with AsyncExitStack() as stack:
        base_url = await stack.enter_async_context(run_emulator(settings)) if settings.demo else None
        scheduler = FairScheduler()
        gemini = await stack.enter_async_context(GeminiClient(settings, scheduler, base_url))
        catalogue = settings.catalogue
        uploads, responses = (ByteBudget(settings.max_buffered_bytes // 2) for _ in range(2))
        converter = ImageConverter(responses, int(catalogue.largest_image * _PIXEL_TOLERANCE))
        stack.callback(converter.close)
        retrier = Retrier(
            settings.upstream_attempts,
            settings.retry_initial_backoff_seconds,
            settings.retry_max_backoff_seconds,
            RetryBudget(settings.retry_budget),
        )
        breakers = CircuitBreakers(settings.circuit_breaker_failures, settings.circuit_breaker_open_seconds)
        upload_limiter = UploadLimiter(uploads, settings.caller_idle_timeout_seconds, settings.deadline_seconds)
        admission.on_drain.append(upload_limiter.stop)
        metrics = Metrics(catalogue.models, demo=settings.demo)
        metrics.register(
            scraped_metrics(
                admission,
                settings.max_in_flight,
                uploads,
                responses,
                retrier,
                breakers,
                catalogue,
                settings.alert_dollars_per_hour,
            )
        )
        images = ImageService(
            gemini,
            catalogue,
            retrier,
            breakers,
            fallback_model=settings.fallback_model,
            vertex=settings.google_genai_use_vertexai,
        )
        storage = await stack.enter_async_context(aclosing(Storage(settings)))
        keys = await stack.enter_async_context(KeyRegistry(storage, settings))
        leases = await stack.enter_async_context(aclosing(LeaseKeeper(storage, settings.chat_lease_seconds)))
        spending = await stack.enter_async_context(CallerSpending(storage, leases))
        # Closed before `spending`: turns whose callers have left are booked when they end.
        chats = await stack.enter_async_context(aclosing(ChatService(images, storage, leases)))
        runs = GenerationRuns(admission, responses, converter, metrics, reporter.report, spending)
        webhooks = WebhookDeliveries(storage, settings, webhook_api.webhook_document(storage, settings), metrics)
        executor = Executor(images, chats, runs, storage, leases, metrics, settings.deadline_seconds)
        recorded = RecordedGenerations(
            executor,
            runs,
            storage,
            leases,
            metrics,
            lease_seconds=settings.chat_lease_seconds,
            on_webhook=webhooks.notify,
        )
        monitor = QueueMonitor(storage, settings.max_queued_async)
        budgets = BudgetMonitor(storage)
        metrics.register([*monitor.metrics(), *budgets.metrics()])
        for service in (
            webhooks,
            recorded,
            monitor,
            budgets,
            StorageCleanup(storage, settings.chat_cleanup_interval_seconds),
        ):
            await stack.enter_async_context(service)
        yield State(
            settings=settings,
            keys=keys,
            key_administration=KeyAdministration(storage.callers),
            catalogue=catalogue,
            images=images,
            chats=chats,
            runs=runs,
            recorded=recorded,
            webhooks=webhooks,
            spending=spending,
            references=ReferenceValidator(
                settings.max_reference_bytes, settings.max_references_bytes, settings.max_reference_pixels
            ),
            converter=converter,
            scheduler=scheduler,
            memory_trimmer=IdleMemoryTrimmer(),
            admission=admission,
            upload_limiter=upload_limiter,
            response_memory=responses,
            metrics=metrics,
            reporter=reporter,
        )


@asynccontextmanager
async def run_emulator(settings: Settings) -> AsyncGenerator[str]:
    """Run the built-in emulator of Gemini; yield its base URL."""
    from app.emulator import Emulator, served  # loads Pillow, which only a demo needs

    emulator = Emulator(
        delay_seconds=settings.demo_delay_seconds, recordings_dir=settings.demo_recordings_dir, keep_calls=0
    )
    async with served(emulator) as base_url:
        log.warning("DEMO: the built-in emulator draws the pictures; Gemini is not called")
        yield base_url


def add_routes(app: FastAPI, settings: Settings) -> None:
    """Add all routes, with limits on the bodies of their requests."""
    routers = [
        routes.router,
        chat_turns.router,
        chat_routes.creation_router,
        chat_routes.router,
        chat_images.router,
        generation_routes.router,
        generation_routes.links_router,
        models.router,
        usage.router,
        openai_routes.router,
        openai_models.router,
        operations.router,
    ]
    if settings.admin_api_key is not None:
        routers.append(admin_routes.router)
    if settings.metrics_access != "off":
        routers.append(operations.metrics_router)
    if settings.playground_access == "open":
        routers.append(playground_router(settings))
    for router in routers:
        app.include_router(
            router,
            max_body_size=settings.max_body_bytes,
            form_limits={**FORM_LIMITS},
        )


def add_middleware(app: FastAPI, settings: Settings, reporter: problems.Reporter) -> None:
    """Add the middleware. A request passes through it in reverse order: the last one added sees it first."""
    origins = AllowedOrigins(settings)
    app.add_middleware(AuthenticationMiddleware, origins=origins, settings=settings, reporter=reporter)
    app.add_middleware(RequestHeadMiddleware, max_body_bytes=settings.max_body_bytes, reporter=reporter)
    app.add_middleware(UnexpectedErrorMiddleware, reporter=reporter)
    app.add_middleware(CrossOriginMiddleware, origins=origins, settings=settings, reporter=reporter)
    app.add_middleware(RequestIdMiddleware, demo=settings.demo)
