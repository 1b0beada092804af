"""Tests of the pauses between two tries to reach a broker."""

from __future__ import annotations

import pytest

from tiderace.layers.backoff import backoff


@pytest.mark.parametrize(("tries", "most"), [(1, 0.2), (2, 0.4), (3, 0.8), (4, 1.0)])
def test_a_pause_doubles_up_to_the_longest(tries, most):
    pauses = [backoff(tries, first=0.1, longest=1.0) for _ in range(100)]

    assert most / 2 <= min(pauses) < max(pauses) <= most


def test_a_broker_may_be_away_for_hours():
    assert backoff(100_000, first=0.1, longest=1.0) <= 1.0
