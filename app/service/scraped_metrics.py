"""Metrics whose current value is read from the service at each scrape."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from app.domain.catalogue import Catalogue
from app.lib.byte_budget import ByteBudget
from app.service.resilience.admission import AdmissionController
from app.service.resilience.circuit_breaker import CircuitBreakers
from app.service.resilience.retries import Retrier


@dataclass(frozen=True, slots=True)
class ScrapedMetric:
    name: str
    """Without the prefix `gemini_images_` and, for a counter, without the suffix `_total`."""
    help: str
    read: Callable[[], float | dict[str, float]]
    """Return the value, or values by label if the metric has a label."""
    label: str | None = None
    is_counter: bool = False


def scraped_metrics(
    admission: AdmissionController,
    in_flight_limit: int,
    uploads: ByteBudget,
    responses: ByteBudget,
    retrier: Retrier,
    breakers: CircuitBreakers,
    catalogue: Catalogue,
    alert_dollars_per_hour: float,
) -> list[ScrapedMetric]:
    """Return the metrics that describe the current state of these parts of the service."""
    return [
        ScrapedMetric("in_flight", "Generations that are running.", lambda: admission.in_flight),
        ScrapedMetric(
            "in_flight_limit", "Largest number of generations that may run (MAX_IN_FLIGHT).", lambda: in_flight_limit
        ),
        ScrapedMetric("queued", "Requests that wait for a slot.", lambda: admission.queued),
        ScrapedMetric("event_loop_tasks", "Tasks of the event loop.", lambda: len(asyncio.all_tasks())),
        ScrapedMetric(
            "buffered_bytes",
            "Bytes of image data in memory. MAX_BUFFERED_BYTES is the limit, half of it for each kind.",
            lambda: {"uploads": uploads.used, "responses": responses.used},
            label="kind",
        ),
        ScrapedMetric(
            "ambiguous_retries",
            "Retries of calls that broke off after they were sent. Google may bill both calls.",
            lambda: retrier.ambiguous_retries,
            is_counter=True,
        ),
        ScrapedMetric(
            "circuit_breaker_open",
            "1 while calls to the model are stopped because it kept failing. Other models have no series.",
            lambda: dict.fromkeys(breakers.open_models(), 1.0),
            label="model",
        ),
        ScrapedMetric(
            "model_deprecated",
            "1 for each model that Google is going to switch off. Other models have no series.",
            lambda: dict.fromkeys(catalogue.deprecated, 1.0),
            label="model",
        ),
        ScrapedMetric(
            "alert_dollars_per_hour",
            "Cost per hour in US dollars at which the cost alert fires (ALERT_DOLLARS_PER_HOUR). 0 disables the alert.",
            lambda: alert_dollars_per_hour,
        ),
    ]
