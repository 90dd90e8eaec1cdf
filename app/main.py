"""The whole process, assembled on one page. Run it with `python -m app`, or `uvicorn app.main:create_app --factory`."""

import asyncio
import logging
import os
import tempfile
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager

from fastapi import FastAPI

from app import __version__
from app.api import metrics as metrics_route
from app.api import models, operations
from app.api.chats import images as chat_images
from app.api.chats import routes as chat_routes
from app.api.chats import turns as chat_turns
from app.api.http import openapi, problems
from app.api.http.authentication import Door
from app.api.http.cors import AllowedOrigins, CrossOrigin
from app.api.http.dependencies import State
from app.api.http.middleware import PROBES, AnnouncedLength, HeaderFields, RequestContext, SafetyNet, route_path
from app.api.http.uploads import Intake
from app.api.images import routes
from app.gemini import Gemini
from app.lib import logs
from app.lib.byte_budget import Room
from app.lib.idle_trim import SpareMemory
from app.lib.scheduler import Pace
from app.service.chats.leases import Leases
from app.service.chats.service import Chats
from app.service.generation.references import References
from app.service.generation.service import Images
from app.service.metrics import Metrics
from app.service.resilience.admission import Gate
from app.service.resilience.circuit_breaker import Breakers
from app.service.resilience.retries import Attempts, RetryBudget
from app.settings import Settings
from app.store import Storage

log = logging.getLogger(__name__)


def create_app(settings: Settings | None = None) -> FastAPI:
    """Build the service.

    Args:
        settings: read from the environment if left out.

    Raises:
        UnsafeSettings: there are no credentials for Gemini and `DEMO` is not set.
        pydantic.ValidationError: a setting of the environment is invalid.
    """
    settings = settings or Settings()
    settings.require_startable()
    logs.install(settings)
    # Python takes another folder in silence if this one is full when it is first needed.
    tempfile.tempdir = os.environ.get("TMPDIR") or tempfile.tempdir
    reporter = problems.Reporter(log_sensitive=settings.log_sensitive)
    gate = Gate(settings.max_in_flight, settings.max_queued, settings.queue_timeout_seconds)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[State]:
        async with AsyncExitStack() as stack:
            base_url = None
            if settings.demo:
                from app.emulator import Emulator, served  # needs Pillow, which a real service does without

                emulator = Emulator(
                    delay_seconds=settings.demo_delay_seconds, recorded_dir=settings.recorded_dir, keep_calls=0
                )
                base_url = await stack.enter_async_context(served(emulator))
                log.warning("DEMO: the built-in emulator draws the pictures; Gemini is not called")
            pace = Pace()
            gemini = await stack.enter_async_context(Gemini(settings, pace, base_url))
            catalogue = settings.catalogue
            uploads, answers = Room(settings.max_held_bytes // 2), Room(settings.max_held_bytes // 2)
            attempts = Attempts(
                settings.upstream_attempts,
                settings.retry_first_wait_seconds,
                settings.retry_max_wait_seconds,
                RetryBudget(settings.retry_budget),
            )
            breakers = Breakers(settings.breaker_failures, settings.breaker_seconds)
            intake = Intake(uploads, settings.slow_caller_seconds, settings.deadline_seconds)
            gate.on_drain.append(intake.stop)
            metrics = Metrics(catalogue.models, demo=settings.demo)
            metrics.watch(
                lambda: {
                    "in_flight": gate.under_way,
                    "queued": gate.queued,
                    "event_loop_tasks": len(asyncio.all_tasks()),
                    "held_bytes": {"uploads": uploads.held, "answers": answers.held},
                    "doubtful_retries": attempts.doubtful,
                    "breaker_open": dict.fromkeys(breakers.open_models(), 1),
                    "places": settings.max_in_flight,
                    "deprecated": dict.fromkeys(catalogue.deprecated, 1),
                    "alert_dollars_per_hour": settings.alert_dollars_per_hour,
                }
            )
            images = Images(
                gemini,
                catalogue,
                gate,
                attempts,
                breakers,
                fallback_model=settings.fallback_model,
                vertex=settings.google_genai_use_vertexai,
            )
            storage = await stack.enter_async_context(aclosing(Storage(settings)))
            leases = await stack.enter_async_context(aclosing(Leases(storage, settings.chat_lease_seconds)))
            chats = Chats(images, storage, leases, settings.chat_sweep_seconds)
            await stack.enter_async_context(chats)
            yield State(
                settings=settings,
                catalogue=catalogue,
                images=images,
                chats=chats,
                references=References(
                    settings.max_reference_bytes, settings.max_references_bytes, settings.max_reference_pixels
                ),
                pace=pace,
                spare_memory=SpareMemory(),
                gate=gate,
                intake=intake,
                room=answers,
                metrics=metrics,
                reporter=reporter,
            )

    app = FastAPI(
        title="Gemini images",
        version=__version__,
        summary="Text to image, editing and search-grounded images with Google's Gemini models.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        openapi_url=None if settings.docs_access == "off" else "/openapi.json",
        lifespan=lifespan,
        generate_unique_id_function=lambda route: route.name,
        # Its log records hold messages of exceptions, which can quote prompts. Exporters come from OTEL_…_ENDPOINT.
        telemetry={"auto_configure": True, "logs": False, "exclude": lambda scope: route_path(scope) in PROBES},
    )
    app.state.gate = gate
    problems.install(app, reporter)
    if settings.docs_access != "off":
        openapi.install(app, keyed=bool(settings.service_api_keys))
    observed = [metrics_route.router] if settings.metrics_access != "off" else []
    for router in (
        routes.router,
        chat_turns.router,
        chat_routes.creation_router,
        chat_routes.router,
        chat_images.router,
        models.router,
        operations.router,
        *observed,
    ):
        app.include_router(
            router,
            max_body_size=settings.max_body_bytes,
            # Far beyond any model: too many files for one is said, and counted, by what knows the model.
            form_limits={"max_files": 64, "max_fields": 200, "max_part_size": 1024 * 1024},
        )

    # The last one added is the first to see a request.
    origins = AllowedOrigins(settings)
    app.add_middleware(Door, origins=origins, settings=settings, reporter=reporter)
    app.add_middleware(HeaderFields, reporter=reporter)
    app.add_middleware(AnnouncedLength, max_body_bytes=settings.max_body_bytes, reporter=reporter)
    app.add_middleware(SafetyNet, reporter=reporter)
    app.add_middleware(CrossOrigin, origins=origins, settings=settings, reporter=reporter)
    app.add_middleware(RequestContext, demo=settings.demo)
    return app
