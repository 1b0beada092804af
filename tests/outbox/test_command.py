"""``manage.py tiderace_relay``, and the relays of server processes."""

from __future__ import annotations

import io
import os
import signal
import threading

import pytest
from django.apps import apps
from django.core.management import CommandError, call_command
from django.db import connections, transaction

from support.outbox import messages_of, waiting_in
from support.waiting import until, wait_until
from tiderace.outbox.models import RelayLease
from tiderace.outbox.process import process_relays, start_in_server
from tiderace.outbox.rows import databases
from tiderace.runtime.lifespan import process_lifespan
from tiderace.topics import publish


@pytest.fixture
def signals():
    """Restores the handlers that the command replaces."""
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("signals")
def test_the_command_relays_until_it_is_terminated(sqlite):
    with transaction.atomic(sqlite):
        publish("board:a", 1, using=sqlite)

    def terminate():
        try:
            wait_until(lambda: not waiting_in(sqlite))
        finally:
            connections[sqlite].close()
            os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=terminate)
    thread.start()
    output = io.StringIO()
    call_command("tiderace_relay", database=[sqlite], stdout=output)
    thread.join()

    assert output.getvalue() == f"relaying the outbox of {sqlite}\n"
    assert messages_of("a") == [1]
    assert RelayLease.objects.using(sqlite).get().holder == ""


def test_without_the_app_of_the_outbox_the_command_names_it():
    with pytest.raises(CommandError, match=r'add "tiderace\.outbox" to INSTALLED_APPS'):
        call_command("tiderace_relay")


@pytest.mark.usefixtures("outbox_app")
def test_an_unknown_database_is_refused():
    with pytest.raises(CommandError, match="'nowhere'"):
        call_command("tiderace_relay", database=["nowhere"])


def test_routers_decide_which_databases_have_an_outbox(sqlite, settings):
    assert {"default", sqlite} <= set(databases())

    settings.DATABASE_ROUTERS = ["outbox.test_writing.NoOutbox"]

    assert databases() == []


@pytest.mark.parametrize("relays", [True, False])
async def test_a_server_relays_unless_it_is_told_not_to(
    sqlite, settings, monkeypatch, relays
):
    settings.TIDERACE = {"RELAY_IN_SERVERS": relays}
    monkeypatch.setattr("tiderace.outbox.process.databases", lambda: [sqlite])

    await start_in_server()
    try:
        assert list(process_relays._relays) == ([sqlite] if relays else [])
        if relays:
            await until(lambda: process_relays._relays[sqlite]._lease.held)
    finally:
        await process_relays.stop()


@pytest.mark.usefixtures("outbox_app")
def test_the_app_starts_and_stops_the_relays_with_the_server():
    assert apps.is_installed("tiderace.outbox")
    assert start_in_server in process_lifespan.startup
    assert process_relays.stop in process_lifespan.shutdown
