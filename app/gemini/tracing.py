"""One span and two metrics for each attempt, named by OpenTelemetry's conventions for generative AI.

The names are those of 2026-08, when the conventions were still in development. No other module uses them. Without an
OpenTelemetry provider in the process the cost is negligible.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry import metrics, trace
from opentelemetry.trace import SpanKind, StatusCode

from app import __version__
from app.domain.errors import GenerationRefused, ServiceError
from app.domain.generation import Generation, GenerationRequest

_NAME = "app.gemini"
_OPERATION = "generate_content"


class Telemetry:
    """Uses OpenTelemetry's global providers."""

    def __init__(self, *, vertex: bool) -> None:
        self._common: dict[str, Any] = {
            "gen_ai.operation.name": _OPERATION,
            "gen_ai.provider.name": "gcp.vertex_ai" if vertex else "gcp.gemini",
        }
        self._tracer = trace.get_tracer(_NAME, __version__)
        meter = metrics.get_meter(_NAME, __version__)
        self._tokens = meter.create_histogram(
            "gen_ai.client.token.usage", "{token}", "Input or output tokens of one attempt."
        )
        self._duration = meter.create_histogram(
            "gen_ai.client.operation.duration", "s", "Duration of one attempt, successful or not."
        )

    @contextmanager
    def attempt(self, model: str, request: GenerationRequest) -> Iterator["AttemptSpan"]:
        """Trace the block as one call to Gemini. Prompts and images are not recorded."""
        attributes = self._common | {"gen_ai.request.model": model}
        request_attributes = {"gen_ai.output.type": "image"}
        if request.seed is not None:
            request_attributes["gen_ai.request.seed"] = str(request.seed)
        started = time.perf_counter()
        with self._tracer.start_as_current_span(
            f"{_OPERATION} {model}",
            kind=SpanKind.CLIENT,
            attributes=attributes | request_attributes,
            record_exception=False,  # exception messages can quote prompts
            set_status_on_exception=False,
        ) as span:
            attempt = AttemptSpan(span)
            try:
                yield attempt
            except BaseException as error:
                code = error.code if isinstance(error, ServiceError) else type(error).__name__
                span.set_attribute("error.type", code)
                span.set_status(StatusCode.ERROR, code)
                attributes["error.type"] = code
                if isinstance(error, GenerationRefused):
                    attempt.record_refusal(error)
                raise
            finally:
                self._duration.record(time.perf_counter() - started, attributes)
                for kind, count in attempt.tokens.items():
                    self._tokens.record(count, attributes | {"gen_ai.token.type": kind})


class AttemptSpan:
    def __init__(self, span: trace.Span) -> None:
        self._span = span
        self.tokens: dict[str, int] = {}

    def record_generation(self, generation: Generation) -> None:
        self._set(generation.model_version, generation.finish_reason)
        self._count(generation.usage.prompt_tokens, generation.usage.total_tokens)

    def record_refusal(self, refusal: GenerationRefused) -> None:
        self._set(None, refusal.finish_reason or refusal.block_reason)
        if refusal.usage:
            self._count(refusal.usage.prompt_tokens, refusal.usage.total_tokens)

    def _set(self, model_version: str | None, reason: str | None) -> None:
        if model_version:
            self._span.set_attribute("gen_ai.response.model", model_version)
        if reason:
            self._span.set_attribute("gen_ai.response.finish_reasons", [reason])

    def _count(self, prompt: int, total: int) -> None:
        """Count each token that is not input as output: Gemini does not always count thoughts as output."""
        self.tokens = {"input": prompt, "output": total - prompt}
        for kind, count in self.tokens.items():
            self._span.set_attribute(f"gen_ai.usage.{kind}_tokens", count)
