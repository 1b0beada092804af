"""The measurements of a process at one moment, as a value that can be added and sent."""

from __future__ import annotations

import msgspec

from tiderace import metrics
from tiderace.layers.manager import channel_layers, layer_attribute

# The gauges of each layer: name, meaning.
LAYER_GAUGES = {
    "layer_channels": "channels of a layer in this process",
    "layer_groups": "groups of a layer with a member in this process",
    "layer_lag_seconds": "seconds a message now takes over a layer's broker",
}


class Snapshot(msgspec.Struct):
    """The measurements of one process, or the sum of several.

    Both map a metric's name to its values by label; without a label it is ``""``. A
    histogram is a counter whose labels are its bounds and ``sum``.
    """

    counters: dict[str, dict[str, float]] = {}
    gauges: dict[str, dict[str, float]] = {}

    def add(self, other: Snapshot, sign: int = 1) -> None:
        """Add another snapshot; with ``sign=-1`` subtract it."""
        for mine, theirs in (
            (self.counters, other.counters),
            (self.gauges, other.gauges),
        ):
            for name, values in theirs.items():
                total = mine.setdefault(name, {})
                for label, value in values.items():
                    so_far = total.get(label, 0)
                    # Lags do not add up: the largest one counts.
                    is_lag = name == "layer_lag_seconds"
                    total[label] = (
                        max(so_far, value) if is_lag else so_far + sign * value
                    )


def take() -> Snapshot:
    """Return the measurements of this process."""
    snapshot = Snapshot()
    for each in metrics.measurements():
        kind = snapshot.gauges if each.kind == "gauge" else snapshot.counters
        kind[each.name] = {"": each.value}
    for counter in metrics.labelled_counters():
        snapshot.counters[counter.name] = dict(counter.values)
    for histogram in metrics.histograms():
        bounds = map(str, (*histogram.bounds, float("inf")))
        counts = dict(zip(bounds, histogram.counts, strict=True))
        snapshot.counters[histogram.name] = {**counts, "sum": histogram.total}
    for alias, layer in list(channel_layers.backends.items()):
        if stats_here := layer_attribute(layer, "stats_here"):
            here = stats_here(top=0)
            values = (here.channels, here.groups, here.lag)
            for name, value in zip(LAYER_GAUGES, values, strict=True):
                if value is not None:
                    snapshot.gauges.setdefault(name, {})[alias] = value
    return snapshot
