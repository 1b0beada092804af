"""The ids that a reader has not seen, of rows that are committed out of order."""

from __future__ import annotations

import psycopg
import pytest

from tiderace.layers.database.postgresql import holes as holes_module
from tiderace.layers.database.postgresql.holes import Holes


def test_the_ids_before_one_that_was_seen_are_missing():
    holes = Holes(10)

    holes.add(13, now=0.0)

    assert holes.due(0.0, delay=0) == [11, 12]


def test_an_id_that_was_seen_later_is_missing_no_more():
    holes = Holes(10)
    holes.add(13, now=0.0)

    holes.add(11, now=0.1)
    holes.discard(12)

    assert holes.due(0.1, delay=0) == []


def test_ids_up_to_the_end_of_the_sequence_are_missing():
    holes = Holes(10)

    holes.extend(12, now=0.0)
    holes.extend(12, now=0.0)

    assert holes.due(0.0, delay=0) == [11, 12]


def test_an_id_is_asked_for_once_it_has_been_missing_for_the_delay():
    holes = Holes(10)
    holes.extend(11, now=0.0)

    assert holes.due(0.04, delay=0.05) == []
    assert holes.due(0.05, delay=0.05) == [11]


def test_an_id_is_asked_for_at_every_poll_at_first_and_more_rarely_later():
    holes = Holes(10)
    holes.extend(11, now=0.0)

    asked = [now / 10 for now in range(40) if holes.due(now / 10, delay=0)]

    assert asked[:11] == [now / 10 for now in range(11)]
    assert len(asked[11:]) == 3


def test_an_id_that_was_never_used_is_given_up():
    holes = Holes(10)
    holes.extend(11, now=0.0)

    assert holes.due(61.0, delay=0) == []
    assert not holes._missing


def test_a_reader_that_is_far_behind_must_read_anew(monkeypatch):
    monkeypatch.setattr(holes_module, "_MAX_HOLES", 5)
    holes = Holes(10)

    with pytest.raises(psycopg.OperationalError, match="6 messages behind"):
        holes.extend(16, now=0.0)


def test_a_reader_whose_ids_are_given_to_other_rows_must_read_anew():
    holes = Holes(10)
    holes.add(13, now=0.0)

    with pytest.raises(psycopg.OperationalError, match="lost its latest ids"):
        holes.extend(12, now=0.0)
