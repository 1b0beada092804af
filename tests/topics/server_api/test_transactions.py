"""Publications that wait for a commit, over a database in a file."""

from __future__ import annotations

import time
from contextlib import contextmanager

import pytest
from django.db import connections, transaction
from django.test import TestCase

from support.servers.ports import free_port
from tiderace import metrics
from tiderace.exceptions import LayerUnavailable, MessageTooLarge
from tiderace.topics import AllowAny, History, Topic, history, publish
from tiderace.topics.declaration.topic import declared
from tiderace.topics.server_api import transactions
from tiderace.topics.streams import layer_of


@pytest.fixture
def database(tmp_path, django_db_blocker):
    """The alias of a database of this test's own."""
    connections.databases["own"] = {
        **connections.databases["default"],
        "NAME": str(tmp_path / "own.sqlite3"),
    }
    with django_db_blocker.unblock():
        yield "own"
        connections["own"].close()
        del connections["own"], connections.databases["own"]


@pytest.fixture(autouse=True)
def boards(settings):
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": "tiderace.layers.InMemoryChannelLayer"}
    }

    class Board(Topic):
        pattern = "board:<slug:name>"
        history = History()
        permission_classes = [AllowAny]

    yield
    declared.remove(Board)


@pytest.fixture
def broken_layer(monkeypatch):
    """The topics whose publications raise an error, by name."""
    layer = layer_of(declared.resolve("board:a"))
    publish_to_stream = layer.stream_publish
    errors = {}
    tried = []

    async def stream_publish(group, record, **options):
        tried.append(record["topic"])
        if error := errors.get(record["topic"]):
            raise error
        return await publish_to_stream(group, record, **options)

    monkeypatch.setattr(layer, "stream_publish", stream_publish)
    errors["tried"] = tried
    return errors


def heard(name):
    return history(f"board:{name}").messages


@contextmanager
def failing_commit(database, error=ValueError):
    """A transaction that is committed, after which a hook raises ``error``."""
    with pytest.raises(error), transaction.atomic(database):
        yield


def fail():
    raise ValueError("a hook of the application")


def test_a_publication_is_made_although_an_earlier_hook_raises(database):
    with failing_commit(database):
        transaction.on_commit(fail, using=database)
        publish("board:a", 1, using=database)

    assert heard("a") == [1]


def test_a_publication_before_a_hook_that_raises_is_made_once(database):
    with failing_commit(database):
        publish("board:a", 1, using=database)
        transaction.on_commit(fail, using=database)
        publish("board:b", 2, using=database)

    assert (heard("a"), heard("b")) == ([1], [2])


def test_a_publication_of_a_nested_block_is_made_although_a_hook_raises(database):
    with failing_commit(database):
        transaction.on_commit(fail, using=database)
        with transaction.atomic(database):
            publish("board:a", 1, using=database)

    assert heard("a") == [1]


def test_a_publication_of_a_savepoint_that_was_rolled_back_is_not_made(database):
    with failing_commit(database):
        transaction.on_commit(fail, using=database)
        with transaction.atomic(database):
            publish("board:a", 1, using=database)
            transaction.set_rollback(True, using=database)
        publish("board:b", 2, using=database)

    assert (heard("a"), heard("b")) == ([], [2])


def test_a_transaction_after_a_failed_hook_publishes_its_own(database):
    with failing_commit(database):
        transaction.on_commit(fail, using=database)
        publish("board:a", 1, using=database)

    with transaction.atomic(database):
        publish("board:a", 2, using=database)

    assert heard("a") == [1, 2]


def test_a_publication_that_a_hook_makes_in_a_transaction_is_made(database):
    def react():
        with transaction.atomic(database):
            publish("board:b", 2, using=database)

    with transaction.atomic(database):
        publish("board:a", 1, using=database)
        transaction.on_commit(react, using=database)

    assert (heard("a"), heard("b")) == ([1], [2])


def test_an_interrupted_commit_logs_and_counts_the_publications_it_loses(
    database, caplog
):
    def interrupt():
        raise KeyboardInterrupt

    before = metrics.PUBLICATIONS_LOST.value
    with failing_commit(database, KeyboardInterrupt):
        transaction.on_commit(interrupt, using=database)
        publish("board:a", 1, using=database)
        publish("board:b", 1, using=database)

    assert metrics.PUBLICATIONS_LOST.value == before + 2
    assert "a publication to 'board:a' is lost: KeyboardInterrupt()" in caplog.text
    assert heard("a") == []


def test_publications_of_one_commit_keep_their_order_in_a_topic(database):
    with transaction.atomic(database):
        for number in range(20):
            publish(f"board:{number % 2}", number, using=database)

    assert heard("0") == list(range(0, 20, 2))
    assert heard("1") == list(range(1, 20, 2))


def test_publications_to_a_topic_whose_broker_is_away_are_lost_after_one_try(
    database, broken_layer, caplog
):
    broken_layer["board:a"] = LayerUnavailable("no answer")
    before = metrics.PUBLICATIONS_LOST.value
    with transaction.atomic(database):
        for number in range(3):
            publish("board:a", number, using=database)
            transaction.on_commit(lambda: None, using=database)
            publish("board:b", number, using=database)

    assert broken_layer["tried"].count("board:a") == 1
    assert metrics.PUBLICATIONS_LOST.value == before + 3
    assert caplog.text.count("a publication to 'board:a' is lost: no answer") == 3
    assert heard("b") == [0, 1, 2]


@pytest.mark.parametrize("others", [[], [1]], ids=["alone", "with another"])
def test_a_publication_that_is_too_large_for_the_broker_is_lost_and_no_other(
    database, broken_layer, caplog, others
):
    broken_layer["board:a"] = MessageTooLarge("2 MB")
    before = metrics.PUBLICATIONS_LOST.value
    with transaction.atomic(database):
        publish("board:a", 1, using=database)
        for number in others:
            publish("board:b", number, using=database)

    assert metrics.PUBLICATIONS_LOST.value == before + 1
    assert "a publication to 'board:a' is lost: 2 MB" in caplog.text
    assert heard("b") == others


def test_publications_of_one_commit_share_the_time_to_wait_for_a_broker(
    database, settings
):
    settings.CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "tiderace.layers.redis.RedisChannelLayer",
            "CONFIG": {
                "hosts": [("127.0.0.1", free_port())],
                "publish_timeout": 0.5,
            },
        }
    }
    before = metrics.PUBLICATIONS_LOST.value
    with transaction.atomic(database):
        for number in range(8):
            publish(f"board:{number % 4}", number, using=database)
        begun = time.monotonic()

    assert time.monotonic() - begun < 3 * 0.5
    assert metrics.PUBLICATIONS_LOST.value == before + 8


def test_an_error_of_one_publication_is_raised_after_the_others_are_made(
    database, broken_layer
):
    broken_layer["board:a"] = TypeError("cannot be encoded")
    with failing_commit(database, TypeError):
        publish("board:a", 1, using=database)
        publish("board:b", 2, using=database)

    assert heard("b") == [2]


class Captured(TestCase):
    def test_captured_callbacks_publish_one_by_one(self):
        with self.captureOnCommitCallbacks(execute=True) as callbacks:
            publish("board:a", 1)
            publish("board:a", 2)

        assert len(callbacks) == 2
        assert heard("a") == [1, 2]


# In a TestCase, whose transaction is never committed


@pytest.fixture
def test_case(db, monkeypatch):
    """The connection of a test whose transaction is rolled back."""
    monkeypatch.setattr(transactions, "_test_case_noted", False)
    yield connections["default"]
    connections["default"].run_on_commit.clear()


def test_a_publication_that_a_test_case_rolls_back_is_logged_once(test_case, caplog):
    publish("board:a", 1)
    publish("board:a", 2)

    test_case.run_on_commit.clear()

    [record] = caplog.records
    assert "publish() to 'board:a' was not carried out" in record.getMessage()
    assert "TopicsTestMixin" in record.getMessage()


def test_a_publication_that_a_test_case_carries_out_is_not_logged(test_case, caplog):
    with TestCase.captureOnCommitCallbacks(execute=True):
        publish("board:a", 1)

    test_case.run_on_commit.clear()

    assert heard("a") == [1]
    assert not caplog.records


def test_a_publication_that_the_code_under_test_rolls_back_is_not_logged(
    test_case, caplog
):
    with transaction.atomic():
        publish("board:a", 1)
        transaction.set_rollback(True)

    assert not caplog.records
