"""What an operator watches, as Prometheus series: few, and each with a question it answers."""

from collections.abc import Callable, Collection, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from app.domain.generation import Usage
from app.domain.progress import GenerationProgress

_SECONDS = (0.01, 0.05, 0.25, 1, 5, 10, 20, 30, 45, 60, 90, 120, 180, 300, 600)

Gauges = Callable[[], dict[str, float | dict[str, float]]]


class Metrics:
    """The series of one service; two in a process do not share them."""

    def __init__(self, models: Collection[str], *, demo: bool = False) -> None:
        """
        Args:
            models: those that are counted by their ids. Callers can name any number of others: they are all `other`.
            demo: whether the emulator draws the images, so that nobody pays what they would cost.
        """
        self._models = models
        self._registry = CollectorRegistry()
        self._outcomes = Counter(
            "gemini_images_generations",
            "Generations by what came of them: ok, or the code of a problem. Model none: refused before there was one.",
            ["model", "outcome"],
            registry=self._registry,
        )
        self._stages = Histogram(
            "gemini_images_stage_seconds",
            "How long the stages of a generation take.",
            ["stage"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._attempts = Counter(
            "gemini_images_upstream_attempts", "Calls made to Gemini.", ["model"], registry=self._registry
        )
        self._tokens = Counter(
            "gemini_images_tokens",
            "Tokens that Gemini says it used.",
            ["model", "kind"],
            registry=self._registry,
        )
        real = Counter(
            "gemini_images_cost_dollars", "Estimated cost at list price.", ["model"], registry=self._registry
        )
        pretended = Counter(
            "gemini_images_demo_cost_dollars",
            "What a demo's images would have cost. Nobody pays it.",
            ["model"],
            registry=self._registry,
        )
        self._dollars = pretended if demo else real
        self._abandoned = Counter(
            "gemini_images_abandoned",
            "Generations whose caller left, by how far they were.",
            ["stage"],
            registry=self._registry,
        )

    def register_gauges(self, gauges: Gauges) -> None:
        """Report what `gauges` returns whenever somebody looks: by name a number, or numbers by label."""
        self._registry.register(_Now(gauges))

    def record_generation(
        self, model: str, outcome: str, progress: GenerationProgress, usage: Usage | None, abandoned_in: str | None
    ) -> None:
        """A generation is over.

        Args:
            model: its id.
            outcome: `ok` or the code of its problem.
            progress: its calls, and the duration of its stages.
            usage: what Gemini says it used.
            abandoned_in: how far it was when the caller left.
        """
        model = model if model in self._models else "other"
        self._outcomes.labels(model, outcome).inc()
        for asked, times in progress.calls_by_model.items():
            self._attempts.labels(asked if asked in self._models else "other").inc(times)
        for stage, seconds in progress.stage_seconds.items():
            self._stages.labels(str(stage)).observe(seconds)
        if abandoned_in is not None:
            self._abandoned.labels(abandoned_in).inc()
        if usage is not None:
            self._tokens.labels(model, "input").inc(usage.prompt_tokens)
            self._tokens.labels(model, "output").inc(max(0, usage.total_tokens - usage.prompt_tokens))
            self._dollars.labels(model).inc(usage.estimated_cost_usd or 0)

    def record_rejection(self, outcome: str) -> None:
        """A request for a generation came to nothing before it became one, through no fault of its caller's.

        Args:
            outcome: the code of its problem.
        """
        self._outcomes.labels("none", outcome).inc()

    def render(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self._registry)


class _Now(Collector):
    def __init__(self, gauges: Gauges) -> None:
        self._gauges = gauges

    def collect(self) -> Iterator[Metric]:
        for name, value in self._gauges().items():
            family = GaugeMetricFamily(
                f"gemini_images_{name}", name.replace("_", " "), labels=["of"] if isinstance(value, dict) else None
            )
            for label, number in value.items() if isinstance(value, dict) else [(None, value)]:
                family.add_metric([label] if label is not None else [], number)
            yield family
