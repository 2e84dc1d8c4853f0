"""Figures of the server for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    generate_latest,
)

from transxnet.serve.answers import ModelDescription

CONTENT_TYPE = CONTENT_TYPE_LATEST

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters, gauges and histograms in a registry of their own.

    Attributes:
        connections: Called for the number of open connections; a server that knows it sets this.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.connections: Callable[[], int] = lambda: 0
        self._requests = Counter(
            "transxnet_requests", "Requests answered.", ("route", "status"), registry=self.registry
        )
        self._images = Counter("transxnet_images", "Images answered.", registry=self.registry)
        self._restarts = Counter("transxnet_restarts", "Processes started again.", registry=self.registry)
        self._latency = self._histogram("transxnet_request_seconds", "Seconds to the answer.", _SECONDS, "route")
        self._stages = {
            "batch_size": self._histogram("transxnet_batch_size", "Images in a step of the network.", _SIZES),
            "network_seconds": self._histogram("transxnet_network_seconds", "Seconds of a step.", _SECONDS),
            "decode_seconds": self._histogram("transxnet_decode_seconds", "Seconds to decode an image.", _SECONDS),
            "queue_seconds": self._histogram("transxnet_queue_seconds", "Seconds an image waits.", _SECONDS),
        }
        self.gauge("transxnet_connections", "Open connections.", lambda: self.connections())

    def gauge(self, name: str, about: str, value: Callable[[], float]) -> None:
        """Add a gauge whose value is read when it is asked for."""
        Gauge(name, about, registry=self.registry).set_function(value)

    def describe(self, model: ModelDescription) -> None:
        """Add the network's description."""
        info = Info("transxnet_model", "The network.", registry=self.registry)
        fields = ("name", "task", "checkpoint", "precision", "device", "version")
        info.info({field: str(getattr(model, field)) for field in fields})

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count an answered request; ``route`` is one of few."""
        self._requests.labels(route, str(status)).inc()
        self._latency.labels(route).observe(seconds)

    def refused(self, status: int) -> None:
        """Count what a connection refused before it was a request."""
        self._requests.labels("none", str(status)).inc()

    def predicted(self, images: int) -> None:
        """Count images answered."""
        self._images.inc(images)

    def observe(self, name: str, value: float) -> None:
        """Record a measurement of the engine: "batch_size", "network_seconds", "restarts" and so on."""
        if name == "restarts":
            self._restarts.inc(value)
        elif name in self._stages:
            self._stages[name].observe(value)

    def text(self) -> bytes:
        """All figures in Prometheus' text format."""
        return generate_latest(self.registry)

    def _histogram(self, name: str, about: str, bounds: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(name, about, labels, buckets=bounds, registry=self.registry)
