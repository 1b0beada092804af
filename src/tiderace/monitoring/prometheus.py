"""Exports the metrics to Prometheus, without any cost between scrapes.

urlpatterns = [path("metrics", metrics_view)]
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from weakref import WeakSet

from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

from tiderace import __version__, metrics
from tiderace.monitoring import multiprocess_metrics
from tiderace.monitoring.snapshot import LAYER_GAUGES, Snapshot, take

try:
    from prometheus_client import REGISTRY, CollectorRegistry, multiprocess
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
        Metric,
    )
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.registry import Collector
except ImportError as error:
    raise ImportError(
        f'{error}; install it with: pip install "tiderace[prometheus]"'
    ) from error

__all__ = ["TideraceCollector", "metrics_view", "register"]


class TideraceCollector(Collector):
    """Passes Tiderace's metrics to a registry of prometheus_client.

    Where processes share a folder (``PROMETHEUS_MULTIPROC_DIR``), these are the sums
    over all of them, else the metrics of this process.
    """

    def collect(self) -> Iterable[Metric]:
        """Return one family for each measurement, with its present values."""
        folder = multiprocess_metrics.shared()
        snapshot = take() if folder is None else folder.total()
        yield from _families(snapshot)

    def describe(self) -> Iterable[Metric]:
        """Return the families without values, so that registering measures nothing."""
        return _families(Snapshot())


_collector = TideraceCollector()
_registered: WeakSet[CollectorRegistry] = WeakSet()


def register(registry: CollectorRegistry = REGISTRY) -> None:
    """Add Tiderace's metrics to ``registry``, once.

    For projects that export by other means already, such as django-prometheus:
    call it in an ``AppConfig.ready``.
    """
    if registry not in _registered:
        registry.register(_collector)
        _registered.add(registry)


@require_safe
async def metrics_view(request: HttpRequest) -> HttpResponse:
    """Return all metrics of the process, in the format that the client asks for.

    It has the metrics of prometheus_client's own registry and Tiderace's. It needs
    neither database nor broker, and has no access control: restrict the path in the
    proxy.
    """
    folder = os.environ.get(multiprocess_metrics.FOLDER_VARIABLE)
    if folder:
        multiprocess_metrics.share(Path(folder))
        collectors = CollectorRegistry()
        # The application's own metrics, of all processes.
        multiprocess.MultiProcessCollector(collectors)  # type: ignore[no-untyped-call]
        collectors.register(_collector)
    else:
        collectors = REGISTRY
        register(collectors)
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    return HttpResponse(encode(collectors), content_type=content_type)


def _families(snapshot: Snapshot) -> Iterator[Metric]:
    info = GaugeMetricFamily(
        "tiderace_info", "the version that runs", labels=["version"]
    )
    info.add_metric([__version__], 1)
    yield info
    for kind, name, meaning, label in (
        *((each.kind, each.name, each.meaning, "") for each in metrics.measurements()),
        *(
            ("counter", each.name, each.meaning, each.label)
            for each in metrics.labelled_counters()
        ),
        *(("gauge", name, text, "layer") for name, text in LAYER_GAUGES.items()),
    ):
        is_gauge = kind == "gauge"
        family_class = GaugeMetricFamily if is_gauge else CounterMetricFamily
        values = snapshot.gauges if is_gauge else snapshot.counters
        labels = [label] if label else []
        family = family_class(f"tiderace_{name}", meaning, labels=labels)
        for value_label, value in values.get(name, {}).items():
            family.add_metric([value_label] if label else [], value)
        yield family
    for histogram in metrics.histograms():
        yield _histogram(histogram, snapshot.counters.get(histogram.name, {}))


def _histogram(histogram: metrics.Histogram, values: Mapping[str, float]) -> Metric:
    counts = {float(bound): n for bound, n in values.items() if bound != "sum"}
    return HistogramMetricFamily(
        f"tiderace_{histogram.name}_{histogram.unit}",
        histogram.meaning,
        buckets=[
            # A snapshot of another release may have other bounds.
            (bound, sum(n for at, n in counts.items() if at <= float(bound)))
            for bound in (*map(str, histogram.bounds), "+Inf")
        ],
        sum_value=values.get("sum", 0.0),
    )
