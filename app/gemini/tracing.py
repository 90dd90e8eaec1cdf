"""A span and two measurements for each attempt, under the names of OpenTelemetry's conventions for generative AI.

The names are those of the conventions as of 2026-08, still marked as in development, and stand nowhere else. Without a
provider in the process all of it costs next to nothing.
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
    """Asks OpenTelemetry's global providers, whoever has set them up."""

    def __init__(self, *, vertex: bool) -> None:
        self._common: dict[str, Any] = {
            "gen_ai.operation.name": _OPERATION,
            "gen_ai.provider.name": "gcp.vertex_ai" if vertex else "gcp.gemini",
        }
        self._tracer = trace.get_tracer(_NAME, __version__)
        meter = metrics.get_meter(_NAME, __version__)
        self._tokens = meter.create_histogram(
            "gen_ai.client.token.usage", "{token}", "Tokens of an attempt, input and output apart."
        )
        self._duration = meter.create_histogram(
            "gen_ai.client.operation.duration", "s", "How long an attempt took, whatever came of it."
        )

    @contextmanager
    def attempt(self, model: str, request: GenerationRequest) -> Iterator["AttemptSpan"]:
        """The block is one call to Gemini. Nothing of the prompt or the images is recorded."""
        about = self._common | {"gen_ai.request.model": model}
        asked = {"gen_ai.output.type": "image"}
        if request.seed is not None:
            asked["gen_ai.request.seed"] = str(request.seed)
        began = time.perf_counter()
        with self._tracer.start_as_current_span(
            f"{_OPERATION} {model}",
            kind=SpanKind.CLIENT,
            attributes=about | asked,
            record_exception=False,  # messages can quote prompts
            set_status_on_exception=False,
        ) as span:
            attempt = AttemptSpan(span)
            try:
                yield attempt
            except BaseException as error:
                code = error.code if isinstance(error, ServiceError) else type(error).__name__
                span.set_attribute("error.type", code)
                span.set_status(StatusCode.ERROR, code)
                about["error.type"] = code
                if isinstance(error, GenerationRefused):
                    attempt.refused(error)
                raise
            finally:
                self._duration.record(time.perf_counter() - began, about)
                for kind, count in attempt.tokens.items():
                    self._tokens.record(count, about | {"gen_ai.token.type": kind})


class AttemptSpan:
    def __init__(self, span: trace.Span) -> None:
        self._span = span
        self.tokens: dict[str, int] = {}

    def answered(self, generation: Generation) -> None:
        self._set(generation.model_version, generation.finish_reason)
        self._count(generation.usage.prompt_tokens, generation.usage.total_tokens)

    def refused(self, refusal: GenerationRefused) -> None:
        self._set(None, refusal.finish_reason or refusal.block_reason)
        if refusal.usage:
            self._count(refusal.usage.prompt_tokens, refusal.usage.total_tokens)

    def _set(self, model_version: str | None, reason: str | None) -> None:
        if model_version:
            self._span.set_attribute("gen_ai.response.model", model_version)
        if reason:
            self._span.set_attribute("gen_ai.response.finish_reasons", [reason])

    def _count(self, prompt: int, total: int) -> None:
        """Everything that is not input is output: answers count thoughts now here, now there."""
        self.tokens = {"input": prompt, "output": total - prompt}
        for kind, count in self.tokens.items():
            self._span.set_attribute(f"gen_ai.usage.{kind}_tokens", count)
