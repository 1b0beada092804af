"""The survey of the connections of all processes."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys

import pytest
from django.test import override_settings

from support.process_stats import process_stats
from support.servers.brokers import Server
from tiderace.cluster import Answers, Cluster
from tiderace.layers import InMemoryChannelLayer, get_channel_layer
from tiderace.layers.stats import LayerStats
from tiderace.management.commands import runworker
from tiderace.monitoring import cluster_connections

# Workers


SITE = """
import django
from django.conf import settings
settings.configure(
    SECRET_KEY="tests only",
    ASGI_APPLICATION="of.no.use",
    INSTALLED_APPS={apps!r},
    CHANNEL_LAYERS={layers!r},
)
django.setup()
from unittest import mock
from django.core.management import call_command
from tiderace.management.commands import runworker
async def application(scope, receive, send):
    await receive()
with mock.patch.object(runworker, "get_default_application", lambda: application):
    call_command("runworker", "tea")
"""
APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.admin",
    "tiderace",
]


@pytest.fixture
def fleet():
    """Settings of a layer that processes share."""
    with Server() as server:
        backend = "tiderace.layers.redis.RedisChannelLayer"
        layers = {"default": {"BACKEND": backend, "CONFIG": {"hosts": [server.url]}}}
        with override_settings(CHANNEL_LAYERS=layers):
            yield layers


@contextlib.asynccontextmanager
async def answering_worker(layers):
    """``runworker`` in a process of its own, which has answered once."""
    site = SITE.format(layers=layers, apps=APPS)
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", site)
    try:
        async with asyncio.timeout(90):
            while process.pid not in await pids():
                assert process.returncode is None, "the worker has ended"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        await get_channel_layer().close()


async def pids() -> set[int]:
    survey = await cluster_connections.survey_connections()
    return {report.pid for report in survey.reports}


@pytest.mark.timeout(120)
async def test_a_worker_answers_and_stops_on_sigterm(fleet):
    async with answering_worker(fleet) as worker:
        worker.send_signal(signal.SIGTERM)

        async with asyncio.timeout(20):
            assert await worker.wait() == 0


@pytest.mark.parametrize("page", [True, False])
async def test_a_worker_opens_the_bus_where_the_admin_is_installed(monkeypatch, page):
    monkeypatch.setattr(runworker.apps, "is_installed", lambda name: page)
    handled = asyncio.Event()

    async def application(scope, receive, send):
        await receive()
        handled.set()

    layer = InMemoryChannelLayer()
    bus = Cluster(layer)
    monkeypatch.setattr(runworker.cluster, "current", lambda: bus)
    worker = runworker.ClusterWorker(application, ["tea"], layer)
    running = asyncio.create_task(worker.arun())
    await layer.send("tea", {"type": "brew"})
    async with asyncio.timeout(5):
        await handled.wait()
    worker.request_stop()
    await running

    assert bus.is_open == page
    await bus.close()


async def test_a_silent_process_is_named(monkeypatch):
    class Silent(Cluster):
        async def ask(self, kind, payload, *, timeout):
            other = process_stats(process="other", host="other", pid=1)
            return Answers({}, (other,), LayerStats(()))

    bus = Silent(InMemoryChannelLayer())
    monkeypatch.setattr(cluster_connections.cluster, "current", lambda: bus)

    survey = await cluster_connections.survey_connections()
    ended = await cluster_connections.disconnect_user_everywhere("1", "bye")

    assert survey.silent == ended.silent == ("other:1",)
    assert ended.count == 0


async def test_an_answer_of_another_release_is_left_out(monkeypatch, caplog):
    class Newer(Cluster):
        async def ask(self, kind, payload, *, timeout):
            return Answers({"other": {"unknown": 1}}, (), LayerStats(()))

    bus = Newer(InMemoryChannelLayer())
    monkeypatch.setattr(cluster_connections.cluster, "current", lambda: bus)

    survey = await cluster_connections.survey_connections()

    assert survey.reports == ()
    assert "a process of another release answers otherwise" in caplog.text
