"""Measurements: plain counters with a name, a unit and a meaning."""

from __future__ import annotations

from tiderace import metrics
from tiderace.metrics import (
    Histogram,
    Measurement,
    Tally,
    histograms,
    measurements,
    tallies,
)


def test_a_measurement_begins_at_zero_and_adds_up(monkeypatch):
    monkeypatch.setattr(metrics, "_all", [])
    counted = Measurement("fish", "pieces", "fish that were seen")

    counted.add()
    counted.add(4)

    assert counted.value == 5


def test_a_gauge_goes_down_again(monkeypatch):
    monkeypatch.setattr(metrics, "_all", [])
    level = Measurement("tide", "metres", "height of the water", "gauge")

    level.add(3)
    level.add(-1)

    assert level.value == 2


def test_a_measurement_shows_what_it_is(monkeypatch):
    monkeypatch.setattr(metrics, "_all", [])

    assert repr(Measurement("fish", "pieces", "")) == "<counter fish=0 pieces>"


def test_every_measurement_is_listed_once_with_a_unit_and_a_meaning():
    listed = list(measurements())

    assert metrics.MESSAGES_SENT in listed
    assert len({each.name for each in listed}) == len(listed)
    assert all(each.unit and each.meaning for each in listed)
    assert {each.kind for each in listed} == {"counter", "gauge"}


def test_every_measurement_has_a_public_name():
    named = {getattr(metrics, name) for name in metrics.__all__ if name.isupper()}

    assert named == {*measurements(), *tallies(), *histograms()}


def test_a_tally_counts_every_label_by_itself(monkeypatch):
    monkeypatch.setattr(metrics, "_tallies", [])
    closes = Tally("closes", "sockets", "code", "sockets that were closed")

    closes.add(1000)
    closes.add(1000)
    closes.add("refused")

    assert closes.values == {"1000": 2, "refused": 1}


def test_a_tally_tells_a_hundred_labels_apart_and_no_more(monkeypatch):
    """What strangers or applications may choose must not grow for ever."""
    monkeypatch.setattr(metrics, "_tallies", [])
    closes = Tally("closes", "sockets", "code", "sockets that were closed")

    for code in range(4000, 4200):
        closes.add(code)
    closes.add(4000)

    assert len(closes.values) == 101
    assert (closes.values["4000"], closes.values["other"]) == (2, 100)


def test_a_histogram_sorts_values_under_their_bounds(monkeypatch):
    monkeypatch.setattr(metrics, "_histograms", [])
    waves = Histogram("waves", "metres", "height of waves", (1.0, 2.0))

    for height in (0.5, 1.0, 1.5, 7.0):
        waves.observe(height)

    assert waves.counts == [2, 1, 1]
    assert (waves.count, waves.total) == (4, 10.0)


def test_what_is_counted_shows_what_it_is(monkeypatch):
    monkeypatch.setattr(metrics, "_tallies", [])
    monkeypatch.setattr(metrics, "_histograms", [])
    closes = Tally("closes", "sockets", "code", "sockets that were closed")
    waves = Histogram("waves", "metres", "height of waves", (1.0, 2.0))
    waves.observe(3)

    assert repr(closes) == "<tally closes={} sockets>"
    assert repr(waves) == "<histogram waves n=1 sum=3 metres>"


def test_everything_measured_has_a_unit_a_meaning_and_a_name_of_its_own():
    everything = [*measurements(), *tallies(), *histograms()]

    assert all(each.unit and each.meaning for each in everything)
    assert len({each.name for each in everything}) == len(everything)


def test_bounds_ascend():
    for each in histograms():
        assert list(each.bounds) == sorted(set(each.bounds))
