"""The measurements of a process at one moment, as a value that can be added and sent."""

from __future__ import annotations

from typing import Any

import msgspec

from tiderace import metrics
from tiderace.layers import channel_layers

__all__ = ["LAYER_GAUGES", "Snapshot", "take"]

# The gauges of each layer: name, meaning.
LAYER_GAUGES = {
    "layer_channels": "channels of a layer in this process",
    "layer_groups": "groups of a layer with a member in this process",
    "layer_lag_seconds": "seconds a message now takes over a layer's broker",
}


class Snapshot(msgspec.Struct):
    """The measurements of one process, or the sum of several.

    Attributes:
        counters: by name.
        gauges: by name.
        labelled_counters: by name, then by label.
        histograms: by name, how many lay under each bound, and their sum.
        layers: by name, then by a layer's alias; see ``LAYER_GAUGES``.
    """

    counters: dict[str, int] = {}
    gauges: dict[str, int] = {}
    labelled_counters: dict[str, dict[str, int]] = {}
    histograms: dict[str, tuple[list[int], float]] = {}
    layers: dict[str, dict[str, float]] = {}

    def add(self, other: Snapshot, sign: int = 1) -> None:
        """Add another snapshot; with ``sign=-1`` subtract it."""
        _add(self.counters, other.counters, sign)
        _add(self.gauges, other.gauges, sign)
        for name, values in other.labelled_counters.items():
            _add(self.labelled_counters.setdefault(name, {}), values, sign)
        for name, (counts, total) in other.histograms.items():
            mine, sum_so_far = self.histograms.get(name, ([], 0.0))
            if len(mine) != len(counts):
                # The first of its name, or one of another release with other bounds.
                mine, sum_so_far = [0] * len(counts), 0.0
            together = [a + sign * b for a, b in zip(mine, counts, strict=True)]
            self.histograms[name] = (together, sum_so_far + sign * total)
        for name, by_alias in other.layers.items():
            gauge = self.layers.setdefault(name, {})
            for alias, value in by_alias.items():
                # Lags do not add up: the largest one counts.
                is_lag = name.endswith("_seconds")
                so_far = gauge.get(alias, 0.0)
                gauge[alias] = max(so_far, value) if is_lag else so_far + value

    def without_gauges(self) -> Snapshot:
        """Return what remains valid after the process has ended."""
        return Snapshot(self.counters, {}, self.labelled_counters, self.histograms, {})


def take() -> Snapshot:
    """Return the measurements of this process."""
    layers: dict[str, dict[str, float]] = {}
    for alias, layer in list(channel_layers.backends.items()):
        if hasattr(layer, "stats_here"):
            here = layer.stats_here(top=0)
            layers.setdefault("layer_channels", {})[alias] = here.channels
            layers.setdefault("layer_groups", {})[alias] = here.groups
            if here.lag is not None:
                layers.setdefault("layer_lag_seconds", {})[alias] = here.lag
    return Snapshot(
        {each.name: each.value for each in _of_kind("counter")},
        {each.name: each.value for each in _of_kind("gauge")},
        {each.name: dict(each.values) for each in metrics.labelled_counters()},
        {each.name: (list(each.counts), each.total) for each in metrics.histograms()},
        layers,
    )


def _of_kind(kind: str) -> list[metrics.Measurement]:
    return [each for each in metrics.measurements() if each.kind == kind]


def _add(mine: dict[str, Any], theirs: dict[str, Any], sign: int) -> None:
    for name, value in theirs.items():
        mine[name] = mine.get(name, 0) + sign * value
