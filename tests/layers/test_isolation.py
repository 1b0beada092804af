"""The warnings where the in-memory layer does not reach other processes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest
from django.core import mail

from support.clients.wire_client import WireClient
from tiderace.generic.websocket import AsyncWebsocketConsumer
from tiderace.layers import InMemoryChannelLayer, isolation
from tiderace.layers.broker import Retention
from tiderace.runtime.connections import process_connections
from tiderace.testing import WebsocketCommunicator
from tiderace.topics import TopicsEndpoint

NOTHING = Retention(0, 0.0)


@pytest.fixture(autouse=True)
def _outside_of_tests(monkeypatch):
    """A process that is no test run, has said nothing and serves nothing yet."""
    monkeypatch.delattr(mail, "outbox")
    monkeypatch.setattr(isolation, "_logged", set())
    monkeypatch.setattr(process_connections, "expected", False)


@pytest.fixture
def layer():
    return InMemoryChannelLayer()


def test_a_publication_where_nothing_is_served_is_logged_once(layer, caplog):
    for _ in range(2):
        layer.sync.stream_publish(
            "t", {"topic": "room:lobby", "data": "1"}, keep=NOTHING
        )

    [record] = caplog.records
    text = record.getMessage()
    assert "a publication to 'room:lobby' reaches nobody" in text
    assert str(os.getpid()) in text
    assert '"BACKEND": "tiderace.layers.database.DatabaseChannelLayer"' in text
    assert '"tiderace.layers.redis.RedisChannelLayer"' in text


def test_a_group_message_where_nothing_is_served_is_logged(layer, caplog):
    layer.sync.group_send("lobby", {"type": "chat.message"})

    assert "a message to the group 'lobby' reaches nobody" in caplog.text


async def test_a_message_that_a_channel_of_the_process_gets_is_not_logged(
    layer, caplog
):
    await layer.group_add("lobby", "named")
    await layer.group_send("lobby", {"type": "chat.message"})
    await layer.group_send("empty", {"type": "chat.message"})

    assert not caplog.records


@pytest.mark.parametrize("served", [TopicsEndpoint, AsyncWebsocketConsumer])
def test_a_process_that_will_serve_sockets_logs_nothing(layer, caplog, served):
    served.as_asgi()

    layer.sync.stream_publish("t", {"topic": "room:lobby", "data": "1"}, keep=NOTHING)
    layer.sync.group_send("lobby", {"type": "chat.message"})

    assert not caplog.records


def test_a_test_run_logs_nothing(layer, caplog, monkeypatch):
    monkeypatch.setattr(mail, "outbox", [], raising=False)

    layer.sync.group_send("lobby", {"type": "chat.message"})

    assert not caplog.records


# Several processes of one server


@pytest.fixture
def sibling(settings, tmp_path, monkeypatch):
    """The id of a process with the parent of this one, as it seems, and its socket."""
    settings.TIDERACE = {"RUN_DIR": str(tmp_path)}
    monkeypatch.setattr(os, "getppid", os.getpid)
    code = [sys.executable, "-c", "input()"]
    with (
        subprocess.Popen(code, stdin=subprocess.PIPE) as process,
        socket.socket(socket.AF_UNIX) as control,
    ):
        control.bind(str(tmp_path / f"{process.pid}.sock"))
        control.listen()
        yield process.pid, control
        process.communicate(b"\n")


@pytest.mark.servers
async def test_a_first_connection_reports_the_other_processes_once(
    settings, caplog, sibling
):
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": "tiderace.layers.InMemoryChannelLayer"}
    }
    for _ in range(2):
        async with WireClient(TopicsEndpoint.as_asgi()):
            pass

    [record] = [each for each in caplog.records if each.name == "tiderace.layers"]
    assert record.levelname == "ERROR"
    assert f"2 processes serve sockets ({os.getpid()}, {sibling[0]})" in record.message
    assert "tiderace.layers.database.DatabaseChannelLayer" in record.message


@pytest.mark.servers
def test_a_process_that_has_ended_is_no_sibling(caplog, sibling):
    sibling[1].close()

    isolation.log_siblings()

    assert not caplog.records


@pytest.mark.servers
async def test_processes_that_share_a_layer_are_not_reported(settings, caplog, sibling):
    settings.CHANNEL_LAYERS = {}

    async with WebsocketCommunicator(AsyncWebsocketConsumer.as_asgi(), "/") as socket:
        await socket.send_to("hello")

    assert not [each for each in caplog.records if each.name == "tiderace.layers"]
