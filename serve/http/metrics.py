"""Prometheus metrics: requests, seconds by stage, the queue, rejections, and the bundles that are served."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from bertline.serve.http.shelf import Shelf
from bertline.serve.lanes import STAGES, Answered

BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics(Collector):
    """The metrics of one server, in a registry of its own."""

    def __init__(self, shelf: Shelf) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.shelf = shelf
        self.requests = Counter(
            "bertline_requests", "Requests answered.", ["bundle", "route", "method", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "bertline_request_seconds", "Seconds from a request's head to its answer.", ["bundle", "route"],
            registry=self.registry, buckets=BUCKETS,
        )  # fmt: skip
        self.stages = Histogram(
            "bertline_stage_seconds", "Seconds of a text in each stage: queue, tokenize, run.", ["bundle", "stage"],
            registry=self.registry, buckets=BUCKETS,
        )  # fmt: skip
        self.rejected = Counter(
            "bertline_rejected",
            "Requests that were not answered: server full, answer late, or client gone.",
            ["why"],
            registry=self.registry,
        )
        for why in ("full", "late", "gone"):
            self.rejected.labels(why)  # from 0 on, because Prometheus sees no increase from nothing
        Gauge("bertline_queue_texts", "Texts in the queue.", registry=self.registry).set_function(
            lambda: shelf.lanes.waiting
        )
        self.registry.register(self)

    def observe(self, name: str, answered: Answered) -> None:
        """Record the seconds that a text took in each stage."""
        for stage in STAGES:
            self.stages.labels(name, stage).observe(getattr(answered, stage))

    def collect(self) -> list[Metric]:
        """Metrics of the current bundles: a reload changes their versions and resets the counts of a cascade."""
        family = InfoMetricFamily("bertline_bundle", "Bundles that are served.", labels=["bundle"])
        cascades = CounterMetricFamily(
            "bertline_cascade_texts",
            "Texts of a cascade, or windows of them, by the model that answered.",
            labels=["bundle", "by"],
        )
        for entry in self.shelf.entries.values():
            info = {"version": entry.version, "task": entry.manifest.task, "runtime": entry.bundle.runtime.name}
            family.add_metric([entry.name], info)
            if entry.bundle.is_cascade:
                tally = entry.bundle.tally
                cascades.add_metric([entry.name, "student"], tally.texts - tally.asked)
                cascades.add_metric([entry.name, "larger"], tally.asked)
        return [family, cascades]

    def exposition(self) -> bytes:
        """All metrics, in Prometheus' text format."""
        return generate_latest(self.registry)
