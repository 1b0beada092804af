"""Rows of an outbox in tests of an application that commit."""

from __future__ import annotations

from django.db import transaction

from support.outbox import waiting_in
from tiderace.testing import TopicsTestbed
from tiderace.topics import TopicsEndpoint, publish


def test_a_row_reaches_a_subscriber_of_the_testbed_when_it_is_committed(database):
    with TopicsTestbed() as topics:
        board = topics.connect(application=TopicsEndpoint.as_asgi()).subscribe(
            "board:a"
        )
        with transaction.atomic(database):
            publish("board:a", 1, using=database)
            assert topics.publications == []

        assert board.receive() == 1

    assert waiting_in(database) == []


def test_a_row_that_is_rolled_back_is_not_published_by_the_testbed(database):
    with TopicsTestbed() as topics:
        with transaction.atomic(database):
            publish("board:a", 1, using=database)
            transaction.set_rollback(True, using=database)

        assert topics.publications == []


def test_rows_wait_for_a_relay_again_after_a_testbed(database):
    with TopicsTestbed():
        pass

    with transaction.atomic(database):
        publish("board:a", 1, using=database)

    assert waiting_in(database) == [("board:a", "1")]
