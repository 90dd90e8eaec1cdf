"""Prometheus metrics of one service: generations, rejections, durations, calls to Gemini, tokens and cost."""

from collections.abc import Collection, Iterable, Iterator
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from app.domain.progress import GenerationProgress
from app.service.scraped_metrics import ScrapedMetric

_BUCKETS_SECONDS = (0.01, 0.05, 0.25, 1, 5, 10, 20, 30, 45, 60, 90, 120, 180, 300, 600)


class Metrics:
    """The metrics of one service. Each instance has its own registry, so two services in a process are separate."""

    def __init__(self, models: Collection[str], *, demo: bool = False) -> None:
        """
        Args:
            models: model ids that are labels. Callers can name any other id; all of those share the label `other`, so
                that callers cannot create series.
            demo: whether the emulator draws the images. Their cost is then counted in a metric of its own.
        """
        self._models = models
        self._registry = CollectorRegistry()
        self._generations = self._counter(
            "generations", "Finished generations. The outcome is ok or a problem's code.", ["model", "outcome"]
        )
        self._rejections = self._counter(
            "rejections",
            "Requests that failed before their generation began, by the problem's code. Errors of the caller are not "
            "counted.",
            ["code"],
        )
        self._stages = Histogram(
            "gemini_images_stage_duration_seconds",
            "Seconds that a generation spent in a stage.",
            ["stage"],
            buckets=_BUCKETS_SECONDS,
            registry=self._registry,
        )
        self._attempts = self._counter("upstream_attempts", "Calls to Gemini, including retries.", ["model"])
        self._tokens = self._counter(
            "tokens", "Tokens that Gemini reported, by kind: input or output.", ["model", "kind"]
        )
        cost = self._counter("cost_dollars", "Estimated cost at list price in US dollars.", ["model"])
        demo_cost = self._counter(
            "demo_cost_dollars",
            "Estimated cost in US dollars that a demo's images would have had. Nothing is billed.",
            ["model"],
        )
        self._dollars = demo_cost if demo else cost
        self._disconnects = self._counter(
            "caller_disconnects",
            "Generations whose caller disconnected or stopped reading, by the stage of the generation at that time.",
            ["stage"],
        )
        self._caller_images = self._counter("caller_images", "Images by caller.", ["caller"])
        self._caller_dollars = self._counter(
            "demo_caller_cost_dollars" if demo else "caller_cost_dollars",
            "Estimated cost at list price in US dollars, by caller.",
            ["caller"],
        )
        self._limits = self._counter(
            "limit_refusals", "Requests over a limit of their caller, by the problem's code.", ["caller", "code"]
        )
        self._webhook_tries = self._counter(
            "webhook_tries",
            "Tries to deliver a webhook, by outcome: delivered, retried (to be tried again) or failed (given up).",
            ["outcome"],
        )

        self._replays = self._counter(
            "replays",
            "Requests that got the result of an earlier one, by what matched them: key or retry_count.",
            ["matched_by"],
        )
        self._is_demo = demo
        self._saved = self._counter(
            "saved_dollars", "Estimated cost in US dollars of the images that replays did not buy again.", []
        )
        self._interrupted = self._counter(
            "interrupted_generations", "Generations whose process ended before Gemini's answer was stored.", []
        )

    def _counter(self, name: str, help_text: str, labels: list[str]) -> Counter:
        return Counter(f"gemini_images_{name}", help_text, labels, registry=self._registry)

    def register(self, metrics: Iterable[ScrapedMetric]) -> None:
        """Add metrics whose values are read at each scrape."""
        self._registry.register(_ScrapeCollector(tuple(metrics)))

    def record_generation(
        self,
        caller: str,
        model: str,
        outcome: str,
        progress: GenerationProgress,
        disconnected_in: str | None,
    ) -> None:
        """Record a generation that has ended.

        Args:
            caller: name of the caller. The operator gives the names, so they are few.
            model: the model's id.
            outcome: `ok` or the problem's code.
            progress: calls by model, seconds by stage, tokens and cost.
            disconnected_in: the stage in which the caller disconnected, if it did.
        """
        model = self._model_label(model)
        self._generations.labels(model, outcome).inc()
        self._caller_images.labels(caller).inc(outcome == "ok")
        for called_model, calls in progress.calls_by_model.items():
            self._attempts.labels(self._model_label(called_model)).inc(calls)
        for stage, seconds in progress.stage_seconds.items():
            self._stages.labels(str(stage)).observe(seconds)
        if disconnected_in is not None:
            self._disconnects.labels(disconnected_in).inc()
        if (usage := progress.usage) is not None:
            self._tokens.labels(model, "input").inc(usage.prompt_tokens)
            self._tokens.labels(model, "output").inc(max(0, usage.total_tokens - usage.prompt_tokens))
            self._dollars.labels(model).inc(usage.estimated_cost_usd or 0)
            self._caller_dollars.labels(caller).inc(usage.estimated_cost_usd or 0)

    def record_replay(self, dollars: float, *, taken_over: bool) -> None:
        """Record a request that got the result of an earlier one. It is no spending.

        Args:
            dollars: estimated cost of the earlier one.
            taken_over: whether the retry count of OpenAI's clients matched it, and not a key.
        """
        self._replays.labels("retry_count" if taken_over else "key").inc()
        if not self._is_demo:
            self._saved.inc(dollars)

    def record_interrupted(self, count: int) -> None:
        """Record generations whose outcome is unknown."""
        self._interrupted.inc(count)

    def record_rejection(self, code: str) -> None:
        """Record a request that failed before its generation began. Not for errors of the caller.

        Args:
            code: the problem's code.
        """
        self._rejections.labels(code).inc()

    def record_limit(self, caller: str, code: str) -> None:
        """Record a request that was over a limit of its caller.

        Args:
            caller: name of the caller, which has a key.
            code: the problem's code.
        """
        self._limits.labels(caller, code).inc()

    def record_webhook_try(self, outcome: Literal["delivered", "retried", "failed"]) -> None:
        self._webhook_tries.labels(outcome).inc()

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def _model_label(self, model: str) -> str:
        return model if model in self._models else "other"


class _ScrapeCollector(Collector):
    def __init__(self, metrics: tuple[ScrapedMetric, ...]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        for metric in self._metrics:
            kind = CounterMetricFamily if metric.is_counter else GaugeMetricFamily
            family = kind(f"gemini_images_{metric.name}", metric.help, labels=[metric.label] if metric.label else [])
            value = metric.read()
            if isinstance(value, dict):
                for label, number in value.items():
                    family.add_metric([label], number)
            else:
                family.add_metric([], value)
            yield family
