"""What Prometheus may know of a server: numbers, and nothing of what was said."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from residency.serve.engine import Engine

FIRST = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)  # seconds
WHOLE = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 40, 80, 160, 320)


class Meter:
    """The numbers of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.engines: dict[str, Engine] = {}
        self._requests = Counter("residency_requests", "Requests", ["route", "status"], registry=self.registry)
        self._first = Histogram(
            "residency_time_to_first_token_seconds",
            "From a request to the first token of each of its answers, waiting included",
            ["model"],
            buckets=FIRST,
            registry=self.registry,
        )
        self._whole = Histogram(
            "residency_answer_seconds",
            "From a request to the end of each of its answers, by why it ended",
            ["model", "ended"],
            buckets=WHOLE,
            registry=self.registry,
        )
        self.registry.register(_Engines(self.engines))

    def watch(self, model: str, engine: Engine) -> None:
        """Look at an engine whenever the numbers are asked for."""
        self.engines[model] = engine

    def request(self, route: str, status: int) -> None:
        """A request was answered."""
        self._requests.labels(route, str(status)).inc()

    def first(self, model: str, seconds: float) -> None:
        """An answer begins."""
        self._first.labels(model).observe(seconds)

    def whole(self, model: str, ended: str, seconds: float) -> None:
        """An answer has ended."""
        self._whole.labels(model, ended).observe(seconds)

    def page(self) -> bytes:
        """All of it in Prometheus's text form."""
        return generate_latest(self.registry)


class _Engines(Collector):
    """What engines are doing at the moment of asking."""

    def __init__(self, engines: dict[str, Engine]) -> None:
        self.engines = engines

    def collect(self) -> Iterator[Metric]:
        """Three numbers of each engine."""
        waiting = GaugeMetricFamily("residency_queue_length", "Answers that wait for a place", labels=["model"])
        running = GaugeMetricFamily("residency_running", "Answers on their way", labels=["model"])
        tokens = CounterMetricFamily("residency_tokens_generated", "Tokens of all answers", labels=["model"])
        for name, engine in self.engines.items():
            waiting.add_metric([name], len(engine.waiting))
            running.add_metric([name], len(engine.core.running))
            tokens.add_metric([name], engine.tokens)
        yield from (waiting, running, tokens)
