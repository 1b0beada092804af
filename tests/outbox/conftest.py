"""An outbox in a database of its own, on SQLite and on PostgreSQL."""

from __future__ import annotations

import contextlib
import itertools
from types import SimpleNamespace

import pytest
from django.core.management import call_command
from django.db import connections

from support.servers.postgresql import shared_postgresql  # noqa: F401
from tiderace.outbox.models import RelayLease, WaitingPublication
from tiderace.topics import AllowAny, History, Topic
from tiderace.topics.declaration.topic import declared
from tiderace.topics.streams import layer_of

_numbers = itertools.count()


@contextlib.contextmanager
def configured(unblocked, **options):
    """Add a database to Django's settings, with the tables of the outbox."""
    # A name of its own, since threads of earlier tests may still have connections.
    alias = f"outbox{next(_numbers)}"
    connections.databases[alias] = {**connections.databases["default"], **options}
    try:
        with unblocked.unblock():
            call_command("migrate", "tiderace_outbox", database=alias, verbosity=0)
            yield alias
            connections[alias].close()
    finally:
        with contextlib.suppress(AttributeError):
            del connections[alias]
        del connections.databases[alias]


@pytest.fixture
def outbox_app(settings, own_lifespan):
    settings.INSTALLED_APPS = [*settings.INSTALLED_APPS, "tiderace.outbox"]
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": "tiderace.layers.InMemoryChannelLayer"}
    }


@pytest.fixture
def sqlite(tmp_path, outbox_app, django_db_blocker):
    """The alias of a database in a file."""
    options = {
        "NAME": str(tmp_path / "outbox.sqlite3"),
        "OPTIONS": {"transaction_mode": "IMMEDIATE"},
    }
    with configured(django_db_blocker, **options) as alias:
        yield alias


@pytest.fixture
def postgresql(shared_postgresql, outbox_app, django_db_blocker):  # noqa: F811
    """The alias of a database on a server."""
    options = shared_postgresql.database()
    with configured(django_db_blocker, **options) as alias:
        WaitingPublication.objects.using(alias).all().delete()
        RelayLease.objects.using(alias).all().delete()
        yield alias


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request):
    """The alias of a database with an outbox, of each vendor in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture(autouse=True)
def boards():
    """Topics ``board:<name>`` with a history."""

    class Board(Topic):
        pattern = "board:<slug:name>"
        history = History(size=10_000)
        permission_classes = [AllowAny]

    yield Board
    if Board in declared:
        declared.remove(Board)


@pytest.fixture
def broker(monkeypatch, outbox_app):
    """The layer's broker: ``errors`` by topic are raised, ``tried`` are the topics tried."""
    layer = layer_of(declared.resolve("board:a"))
    publish_to_stream = layer.stream_publish
    broker = SimpleNamespace(errors={}, tried=[])

    async def stream_publish(group, record, **options):
        broker.tried.append(record["topic"])
        if error := broker.errors.get(record["topic"]):
            raise error
        return await publish_to_stream(group, record, **options)

    monkeypatch.setattr(layer, "stream_publish", stream_publish)
    return broker
