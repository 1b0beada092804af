"""Who answers when all processes are asked who is connected, and who is named as silent."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time

import pytest
from django.test import override_settings

from support.brokers import Server
from support.process_stats import process_stats
from tiderace.exceptions import LayerUnavailable
from tiderace.layers import InMemoryChannelLayer, get_channel_layer
from tiderace.layers.stats import LayerStats, ProcessStats
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
    return {answer.pid for answer in (await cluster_connections.roll_call()).answers}


@pytest.mark.timeout(120)
async def test_a_worker_answers_and_that_does_not_hold_up_its_end(fleet):
    async with answering_worker(fleet) as worker:
        worker.send_signal(signal.SIGTERM)

        async with asyncio.timeout(20):
            assert await worker.wait() == 0


@pytest.mark.parametrize("page", [True, False])
async def test_where_there_is_no_page_a_worker_waits_for_no_questions(
    monkeypatch, page
):
    attended = []
    monkeypatch.setattr(runworker, "attend", lambda **how: attended.append(how))
    monkeypatch.setattr(runworker.apps, "is_installed", lambda name: page)
    handled = asyncio.Event()

    async def application(scope, receive, send):
        await receive()
        handled.set()

    layer = InMemoryChannelLayer()
    worker = runworker.AnsweringWorker(application, ["tea"], layer)
    running = asyncio.create_task(worker.arun())
    await layer.send("tea", {"type": "brew"})
    async with asyncio.timeout(5):
        await handled.wait()
    worker.request_stop()
    await running

    assert attended == ([{"patient": True}] if page else [])


class Away(InMemoryChannelLayer):
    """A layer whose broker is away for the first questions."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times
        self.tried = asyncio.Event()
        self.heard = asyncio.Event()

    async def stream_subscribe(self, group, listener):
        self.tried.set()
        if self.times:
            self.times -= 1
            raise LayerUnavailable("away")
        await super().stream_subscribe(group, listener)
        self.heard.set()


@pytest.fixture
def away(monkeypatch):
    """Such a layer, which is the default one, and is asked again at once."""
    layer = Away(2)
    monkeypatch.setattr(cluster_connections, "get_channel_layer", lambda: layer)
    monkeypatch.setattr(cluster_connections, "_RETRY", 0)
    return layer


async def test_a_worker_waits_for_its_broker_with_nobody_connected(away):
    cluster_connections.attend(patient=True)

    async with asyncio.timeout(5):
        await away.heard.wait()


async def test_others_give_up_when_nobody_is_connected(away):
    cluster_connections.attend()

    async with asyncio.timeout(5):
        await away.tried.wait()
        while cluster_connections._attendant.beginning is not None:  # noqa: ASYNC110 (no event)
            await asyncio.sleep(0)
    assert not away.heard.is_set()


# Silence


def process(name: str, **values) -> ProcessStats:
    """Numbers of a process that has just told them."""
    told = {"process": name, "host": name, "at": time.time()}
    return process_stats(**{**told, **values})


class Quiet:
    """A layer whose other processes answer nothing."""

    def __init__(self, *others: ProcessStats) -> None:
        self._stats = LayerStats((process("me"), *others))

    async def stats(self, *, fleet):
        return self._stats

    def stats_here(self, top):
        return self._stats.processes[0]

    async def stream_subscribe(self, group, listener):
        listener.groups.add(group)

    def stream_unsubscribe(self, group, listener):
        listener.groups.discard(group)

    async def group_send(self, group, event):
        pass


@pytest.mark.parametrize(
    ("serving", "named"),
    [
        ({"connections": 1}, ("other:1",)),
        ({"topic_clients": 1}, ("other:1",)),
        ({}, ()),
    ],
)
async def test_who_serves_somebody_and_does_not_answer_is_named(
    monkeypatch, serving, named
):
    quiet = Quiet(process("other", **serving))
    monkeypatch.setattr(cluster_connections, "get_channel_layer", lambda: quiet)

    call = await cluster_connections.roll_call(timeout=0.01)

    assert call.silent == named
    assert [answer.process for answer in call.answers] == ["me"]
