"""Tests of the liveness and readiness probes."""

from __future__ import annotations

import json

import pytest
from asgiref.testing import ApplicationCommunicator
from django.test import AsyncClient, Client, override_settings
from django.urls import include, path

from tiderace.health import Health
from tiderace.layers import ChannelLayerManager, channel_layers
from tiderace.routing import get_application
from tiderace.runtime import drain, readiness
from tiderace.runtime.connections import ConnectionRegistry
from tiderace.runtime.drain import Drain
from tiderace.runtime.readiness import ready_check, reasons_not_ready

urlpatterns = [path("internal/", include("tiderace.health"))]


@pytest.fixture(autouse=True)
def checks(monkeypatch):
    """The checks of this process; there are none at first."""
    mine = []
    monkeypatch.setattr(readiness, "_checks", mine)
    return mine


async def the_application(scope, receive, send):
    await send({"type": "http.response.start", "status": 299, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})


async def ask(application, path, method="GET", **scope):
    probe = ApplicationCommunicator(
        application, {"type": "http", "method": method, "path": path, **scope}
    )
    await probe.send_input({"type": "http.request", "body": b""})
    start = await probe.receive_output()
    body = await probe.receive_output()
    await probe.wait()
    return start["status"], json.loads(body["body"]), dict(start["headers"])


async def test_a_process_that_answers_is_alive():
    status, body, _ = await ask(Health(the_application), "/healthz")

    assert (status, body) == (200, {"alive": True})


async def test_a_process_without_failed_checks_is_ready():
    status, body, headers = await ask(Health(the_application), "/readyz")

    assert (status, body) == (200, {"ready": True, "reasons": []})
    assert headers[b"content-type"] == b"application/json"
    assert headers[b"cache-control"] == b"no-store"


async def test_a_process_that_is_not_ready_gives_the_reason_and_is_alive():
    ready_check(lambda: "the tide is out")
    ready_check(lambda: None)
    health = Health(the_application)

    status, body, _ = await ask(health, "/readyz")

    assert (status, body) == (503, {"ready": False, "reasons": ["the tide is out"]})
    assert (await ask(health, "/healthz"))[0] == 200


async def test_a_check_can_be_a_coroutine_function():
    @ready_check
    async def database():
        return "no database"

    assert await reasons_not_ready() == ["no database"]


async def test_a_check_that_raises_is_not_ready_and_hides_the_error(caplog):
    @ready_check
    def database():
        raise ConnectionError("redis://user:p4ss@host refused")

    [reason] = await reasons_not_ready()

    assert "database failed" in reason
    assert "p4ss" not in reason
    assert "p4ss" in caplog.text


async def test_a_check_that_is_registered_twice_runs_once():
    def check():
        return "once"

    ready_check(check)
    ready_check(check)

    assert await reasons_not_ready() == ["once"]


@pytest.mark.parametrize("path", ["/", "/healthz/", "/readyzz", "/a/healthz"])
async def test_other_paths_go_to_the_application(path):
    assert (await ask(Health(the_application), path))[0] == 299


async def test_other_methods_go_to_the_application():
    assert (await ask(Health(the_application), "/healthz", "POST"))[0] == 299


async def test_the_paths_can_be_changed():
    health = Health(the_application, live="/live", ready="/ready")

    assert (await ask(health, "/live"))[1] == {"alive": True}
    assert (await ask(health, "/ready"))[1]["ready"]
    assert (await ask(health, "/healthz"))[0] == 299


async def test_the_paths_are_below_the_root_path():
    health = Health(the_application)

    assert (await ask(health, "/app/healthz", root_path="/app"))[0] == 200
    with override_settings(FORCE_SCRIPT_NAME="/site"):
        assert (await ask(health, "/site/healthz"))[0] == 200


async def test_websockets_go_to_the_application():
    passed = []

    async def application(scope, receive, send):
        passed.append(scope["type"])

    scope = {"type": "websocket", "path": "/healthz"}
    await ApplicationCommunicator(Health(application), scope).wait()

    assert passed == ["websocket"]


async def test_get_application_answers_probes_if_enabled():
    application = get_application([], http=the_application, health=True)

    assert (await ask(application, "/healthz"))[0] == 200


async def test_get_application_serves_no_probes_by_default():
    application = get_application([], http=the_application)

    assert (await ask(application, "/healthz"))[0] == 299


# What registers itself.


class Layer:
    def __init__(self, ready):
        self.ready = ready


class ForeignLayer:
    """A layer of another project, without ``ready``."""


@pytest.fixture
def layers():
    """Layers under a clock of their own, ``layers.now``."""
    mine = ChannelLayerManager(clock=lambda: mine.now)
    mine.now = 100.0
    mine.backends = {
        "default": Layer(True),
        "jobs": Layer(True),
        "other": ForeignLayer(),
    }
    return mine


def test_layers_with_connected_brokers_are_ready(layers):
    assert layers.why_not_ready() is None


def test_a_layer_without_its_broker_for_two_seconds_is_reported(layers):
    layers.backends["jobs"].ready = False
    first = layers.why_not_ready()
    layers.now += 2

    assert first is None
    assert layers.why_not_ready() == "no connection to the broker of jobs"


def test_a_layer_that_opens_its_connection_is_ready(layers):
    layers.backends["jobs"].ready = False
    layers.why_not_ready()
    layers.now += 1.9

    assert layers.why_not_ready() is None


def test_a_reconnection_restarts_the_two_seconds(layers):
    for ready in (False, True, False):
        layers.backends["jobs"].ready = ready
        layers.why_not_ready()
        layers.now += 1.5

    assert layers.why_not_ready() is None


async def test_a_process_is_not_ready_from_the_first_moment_of_a_drain():
    mine = Drain(ConnectionRegistry())
    assert mine.why_not_ready() is None

    running = mine.begin(20, 5)

    assert mine.why_not_ready() == "draining, 0 connections left"
    await running
    assert mine.why_not_ready() is not None


def test_readiness_includes_the_drain_and_the_layers(monkeypatch):
    monkeypatch.undo()  # the registry as it is

    assert drain.process_drain.why_not_ready in readiness._checks
    assert channel_layers.why_not_ready in readiness._checks


# As views


@pytest.fixture
def site():
    login = "django.contrib.auth.middleware.LoginRequiredMiddleware"
    auth = "django.contrib.auth.middleware.AuthenticationMiddleware"
    session = "django.contrib.sessions.middleware.SessionMiddleware"
    with override_settings(ROOT_URLCONF=__name__, MIDDLEWARE=[session, auth, login]):
        yield


async def test_the_views_need_no_login(site):
    ready_check(lambda: "the tide is out")
    client = AsyncClient()

    alive = await client.get("/internal/healthz")
    ready = await client.get("/internal/readyz")

    assert (alive.status_code, alive.json()) == (200, {"alive": True})
    assert ready.status_code == 503
    assert ready.json() == {"ready": False, "reasons": ["the tide is out"]}
    assert "no-store" in ready["Cache-Control"]


def test_the_views_work_under_wsgi(site):
    assert Client().get("/internal/readyz").json() == {"ready": True, "reasons": []}
