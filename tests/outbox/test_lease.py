"""The election of the relay that is at work."""

from __future__ import annotations

import pytest

from support.clock import FakeClock
from tiderace.outbox.lease import RENEWAL, Lease
from tiderace.outbox.models import RelayLease
from tiderace.outbox.rows import OutboxRows


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def leases(database, clock):
    """Two relays of one database."""
    return Lease(database, clock=clock), Lease(database, clock=clock)


def test_the_first_relay_gets_the_lease_and_the_second_one_waits(leases):
    first, second = leases

    assert first.acquire()
    assert not second.acquire()
    assert (first.held, second.held) == (True, False)


def test_a_lease_that_is_renewed_is_not_taken(leases, clock):
    first, second = leases
    first.acquire()

    for _ in range(10):
        assert not second.acquire()
        clock.advance(RENEWAL)
        assert first.acquire()


def test_a_lease_that_is_not_renewed_is_taken_within_six_seconds(leases, clock):
    first, second = leases
    first.acquire()
    second.acquire()

    clock.advance(6)

    assert second.acquire()
    assert not first.held


def test_a_relay_that_was_stopped_gives_up_before_another_one_begins(leases, clock):
    first, second = leases
    first.acquire()
    second.acquire()
    taken = False

    while not taken:
        assert first.held is (clock.now < 1004), "no two of them at once"
        clock.advance(0.5)
        taken = second.acquire()

    assert clock.now >= 1005
    assert not first.held


def test_a_former_holder_waits_like_any_other(leases, clock):
    first, second = leases
    first.acquire()
    second.acquire()
    clock.advance(10)
    second.acquire()

    assert not first.acquire()
    assert not first.held
    assert second.acquire()


def test_a_released_lease_is_taken_at_once(leases):
    first, second = leases
    first.acquire()
    second.acquire()

    first.release()

    assert second.acquire()
    assert not first.held


def test_a_lease_whose_row_was_deleted_is_made_again(leases, database):
    first, second = leases
    first.acquire()

    RelayLease.objects.using(database).all().delete()

    assert second.acquire()
    assert not first.acquire()


def test_the_holder_and_the_age_of_its_renewal_can_be_read(leases, database):
    rows = OutboxRows(database)
    assert rows.relay() is None

    leases[0].acquire()

    holder, age = rows.relay()
    assert holder
    assert age < 60
