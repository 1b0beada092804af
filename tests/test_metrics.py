"""Measurements: plain counters with a name, a unit and a meaning."""

from __future__ import annotations

from tiderace import metrics
from tiderace.metrics import Measurement, measurements


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

    assert named == set(measurements())
