"""``manage.py runserver``: options, application, routes, and a real one that reloads."""

from __future__ import annotations

import asyncio
import datetime
import importlib
import io
import logging
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from unittest import mock
from urllib.parse import quote

import pytest
from cryptography import x509
from django.conf import settings
from django.contrib.staticfiles.handlers import (
    ASGIStaticFilesHandler,
    StaticFilesHandler,
)
from django.core.asgi import get_asgi_application
from django.core.management import CommandError, call_command
from django.core.management.commands.runserver import Command as DjangoRunserver
from django.test import override_settings
from django.urls import path, re_path
from websockets.asyncio.client import connect as async_connect
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from support.servers.ports import free_port
from support.waiting import wait_until
from tiderace import application_parts
from tiderace.auth import AuthMiddlewareStack
from tiderace.generic.websocket import AsyncWebsocketConsumer
from tiderace.management.commands.runserver import Command
from tiderace.route_inspection import Route, websocket_routes
from tiderace.routing import ProtocolTypeRouter, URLRouter, get_application
from tiderace.security.websocket import OriginValidator
from tiderace.server import certificate
from tiderace.server.access import AccessLog
from tiderace.server.certificate import development_certificate
from tiderace.server.development import DevelopmentServer, ServerOptions, StartupFailed
from tiderace.testing import HttpCommunicator, WebsocketCommunicator
from tiderace.topics import TopicsEndpoint

pytestmark = pytest.mark.servers


class Chat(AsyncWebsocketConsumer):
    """A consumer with a name to be listed by."""


class Games(AsyncWebsocketConsumer):
    """Another one."""


async def opaque(scope, receive, send):
    """Serves nobody knows what."""


CHAT = f"{__name__}.Chat"
GAMES = f"{__name__}.Games"

application = ProtocolTypeRouter(
    {
        "http": get_asgi_application(),
        "websocket": URLRouter([path("ws/chat/<room>/", Chat.as_asgi())]),
    }
)
with_routes = override_settings(ASGI_APPLICATION=f"{__name__}.application")
with_static_files = override_settings(
    INSTALLED_APPS=[*settings.INSTALLED_APPS, "django.contrib.staticfiles"],
    STATIC_URL="/static/",
)


def run(*arguments: str) -> tuple[dict, str]:
    """Call the command up to where it would serve: its options, and what it said."""
    said = io.StringIO()
    with mock.patch.object(DjangoRunserver, "run") as serve:
        call_command("runserver", *arguments, stdout=said, stderr=said, no_color=True)
    return serve.call_args.kwargs, said.getvalue()


# Options


@override_settings(ASGI_APPLICATION=None)
def test_the_error_without_asgi_application_has_the_line_to_add():
    with pytest.raises(CommandError, match=r'ASGI_APPLICATION = "settings\.asgi\.appl'):
        run()


@with_routes
def test_the_error_without_uvicorn_has_the_pip_command():
    name = "tiderace.server.development"
    kept = sys.modules.pop(name)
    package = importlib.import_module("tiderace.server")
    try:
        with (
            mock.patch.dict(sys.modules, {"uvicorn": None}),
            pytest.raises(
                CommandError, match=r'pip install "tiderace\[server\]"(?s:.)*--noa'
            ),
        ):
            run()
    finally:
        sys.modules[name] = package.development = kept


@with_routes
@pytest.mark.parametrize(
    ("given", "host", "port"),
    [
        ((), "127.0.0.1", "8000"),
        (("9000",), "127.0.0.1", "9000"),
        (("0.0.0.0:9000",), "0.0.0.0", "9000"),
        (("[::1]:9000",), "::1", "9000"),
        (("--ipv6",), "::1", "8000"),
    ],
)
def test_addresses_are_given_as_to_djangos_own(given, host, port):
    said = io.StringIO()
    command = Command(stdout=said, stderr=said)
    with mock.patch.object(DjangoRunserver, "run"):
        call_command(command, *given)

    assert (command.addr, command.port) == (host, port)


@with_routes
def test_an_invalid_address_is_refused():
    with pytest.raises(CommandError, match="is not a valid port number"):
        run("localhost:tea")


@with_routes
@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ("--http_timeout", "http_timeout has no effect: uvicorn"),
        ("--websocket_handshake_timeout", "websocket_handshake_timeout has no effect"),
        ("--websocket-max-frame-size", "use --websocket-max-message-size"),
    ],
)
def test_daphnes_options_are_accepted_with_a_warning(option, reason):
    options, said = run(option, "5")

    assert options["use_asgi"] is True
    assert reason in said


@with_routes
def test_options_of_daphne_that_are_not_given_are_not_mentioned():
    assert run()[1] == ""


@with_routes
def test_the_largest_message_can_be_chosen():
    command = Command(stdout=io.StringIO())
    with mock.patch.object(DjangoRunserver, "run"):
        call_command(command, "--websocket-max-message-size", "10")

    httpd = command.server_cls(("127.0.0.1", 0), None, ipv6=False)

    assert command._server.options.max_message_size == 10
    assert httpd.server_port == command._server.port
    command._server.close()


@with_routes
def test_a_certificate_makes_addresses_secure(tmp_path):
    made = development_certificate("127.0.0.1", tmp_path)
    said = io.StringIO()
    command = Command(stdout=said, no_color=True)
    with mock.patch.object(DjangoRunserver, "run"):
        call_command(command, "--ssl-certfile", str(made))

    command.server_cls(("127.0.0.1", 0), None, ipv6=False)
    command.get_application({})
    command.on_bind(8000)
    command._server.close()

    assert command._server.options.certificate == str(made)
    assert "at https://127.0.0.1:8000/" in said.getvalue()
    assert "wss://127.0.0.1:8000/ws/chat/<room>/" in said.getvalue()


def test_the_wsgi_server_has_no_certificate():
    with pytest.raises(CommandError, match="--noasgi serves no https"):
        run("--noasgi", "--ssl")


@with_routes
def test_the_error_without_cryptography_has_the_alternatives(tmp_path, settings):
    settings.TIDERACE = {"RUN_DIR": str(tmp_path)}
    command = Command(stdout=io.StringIO())
    with mock.patch.object(DjangoRunserver, "run"):
        call_command(command, "--ssl")

    with (
        mock.patch.object(certificate, "x509", None),
        pytest.raises(CommandError, match=r"pip install cryptography. Or .*--ssl-cert"),
    ):
        command.server_cls(("127.0.0.1", 0), None, ipv6=False)


def test_without_staticfiles_there_are_no_options_for_them():
    parser = Command().create_parser("manage.py", "runserver")

    with pytest.raises(CommandError, match="unrecognized arguments: --nostatic"):
        parser.parse_args(["--nostatic"])


@with_routes
@with_static_files
def test_with_staticfiles_there_are_djangos_options_for_them():
    options, _ = run("--nostatic", "--insecure")

    assert options["use_static_handler"] is False
    assert options["insecure_serving"] is True


@override_settings(ASGI_APPLICATION=None)
def test_noasgi_needs_no_asgi_application():
    options, said = run("--noasgi", "--http_timeout", "5")

    assert options["use_asgi"] is False
    assert said == ""


# What is served


def served(**options):
    """Return the application that the command serves, without the log around it."""
    return Command(stdout=io.StringIO()).get_application(options).application


@with_routes
@with_static_files
@override_settings(DEBUG=True)
def test_static_files_are_served_in_debug_mode():
    assert isinstance(served(), ASGIStaticFilesHandler)


@with_routes
@with_static_files
@pytest.mark.parametrize(
    ("debug", "options"),
    [(True, {"use_static_handler": False}), (False, {})],
)
def test_static_files_are_not_served_otherwise(debug, options):
    with override_settings(DEBUG=debug):
        assert served(**options) is application


@with_routes
@with_static_files
def test_static_files_are_served_without_debug_mode_with_insecure():
    assert isinstance(served(insecure_serving=True), ASGIStaticFilesHandler)


@override_settings(ASGI_APPLICATION="nowhere.application")
def test_an_application_that_cannot_be_imported_is_an_error_of_the_command():
    with pytest.raises(
        CommandError, match="Cannot import ASGI_APPLICATION module 'now"
    ):
        served()


@with_routes
@override_settings(FORCE_SCRIPT_NAME="/shop")
async def test_below_a_script_name_routes_match_the_rest_of_the_path():
    socket = WebsocketCommunicator(served(), "/shop/ws/chat/tea/")

    async with socket:
        pass


@with_routes
@with_static_files
@override_settings(DEBUG=True)
def test_noasgi_serves_wsgi_with_static_files_and_warns_of_websocket_routes():
    said = io.StringIO()
    command = Command(stderr=said, no_color=True)

    handler = command.get_handler(use_asgi=False)

    assert isinstance(handler, StaticFilesHandler)
    assert "(tiderace.W010) --noasgi serves no WebSockets" in said.getvalue()
    assert "/ws/chat/<room>/" in said.getvalue()


@pytest.mark.parametrize("path", ["nowhere.application", f"{__name__}.opaque"])
def test_noasgi_has_no_warning_without_routes(path):
    said = io.StringIO()
    with override_settings(ASGI_APPLICATION=path):
        Command(stderr=said).get_handler(use_asgi=False)

    assert said.getvalue() == ""


def test_noasgi_runs_djangos_own_server():
    command = Command()
    with mock.patch.object(DjangoRunserver, "inner_run") as inner:
        command.inner_run(use_asgi=False, use_threading=True)

    inner.assert_called_once_with(use_asgi=False, use_threading=True)


def test_a_failed_startup_is_an_error_of_the_command():
    with (
        mock.patch.object(
            DjangoRunserver, "inner_run", side_effect=StartupFailed("no")
        ),
        pytest.raises(CommandError, match="no"),
    ):
        Command().inner_run(use_asgi=True, use_reloader=False)


def test_a_failed_startup_under_the_reloader_waits_for_a_change():
    said = io.StringIO()
    with mock.patch.object(
        DjangoRunserver, "inner_run", side_effect=StartupFailed("no")
    ):
        Command(stderr=said, no_color=True).inner_run(use_asgi=True, use_reloader=True)

    assert "no. Waiting for a change." in said.getvalue()


# What is printed


def printed(**attributes) -> str:
    said = io.StringIO()
    command = Command(stdout=said, no_color=True)
    command.addr, command._raw_ipv6, command._server = "127.0.0.1", False, mock.Mock()
    for name, value in attributes.items():
        setattr(command, name, value)
    command.on_bind(8000)
    return said.getvalue()


def test_the_websocket_routes_are_printed_below_the_banner():
    text = printed(_routes=[Route("/ws/chat/<room>/", "chat.consumers.Chat")])

    assert "Starting development server at http://127.0.0.1:8000/" in text
    assert "WebSocket routes:\n  ws://127.0.0.1:8000/ws/chat/<room>/  chat." in text


def test_an_ipv6_address_is_printed_in_brackets():
    text = printed(_routes=[Route("/ws/", "Chat")], addr="::1", _raw_ipv6=True)

    assert "ws://[::1]:8000/ws/  Chat" in text


def test_a_topics_endpoint_is_printed_by_its_own_name():
    routes = URLRouter([path("connection/", TopicsEndpoint.as_asgi())])

    assert websocket_routes(ProtocolTypeRouter({"websocket": routes})) == [
        Route("/connection/", "tiderace.topics.endpoint.TopicsEndpoint")
    ]


@with_routes
def test_an_application_without_websockets_causes_a_warning():
    assert "No WebSocket routes" in printed(_routes=[])


def test_hidden_routes_cause_no_warning():
    assert "WebSocket routes" not in printed(_routes=None)


def test_the_wsgi_server_prints_no_routes():
    assert "WebSocket routes" not in printed(_server=None)


# Finding the routes


def test_routes_are_found_through_middleware_and_nested_routers():
    games = URLRouter([path("<int:pk>/", Games.as_asgi()), path("", Games.as_asgi())])
    app = ProtocolTypeRouter(
        {
            "websocket": OriginValidator(
                AuthMiddlewareStack(
                    URLRouter(
                        [
                            path(
                                "ws/chat/<room>/", AuthMiddlewareStack(Chat.as_asgi())
                            ),
                            path("ws/games/", AuthMiddlewareStack(games)),
                        ]
                    )
                ),
                ["*"],
            )
        }
    )

    assert websocket_routes(AccessLog(app, print)) == [
        Route("/ws/chat/<room>/", CHAT),
        Route("/ws/games/<int:pk>/", GAMES),
        Route("/ws/games/", GAMES),
    ]


@pytest.mark.parametrize(
    ("regex", "readable"),
    [
        (r"^ws/chat/(?P<room>\w+)/$", "/ws/chat/<room>/"),
        (r"ws/(\d+)/(?:more/)?$", "/ws/<var>/"),
    ],
)
def test_regular_expressions_are_made_readable(regex, readable):
    app = ProtocolTypeRouter({"websocket": URLRouter([re_path(regex, Chat.as_asgi())])})

    assert websocket_routes(app) == [Route(readable, CHAT)]


def test_an_application_that_is_no_consumer_is_listed_by_its_name():
    class Instance:
        async def __call__(self, scope, receive, send): ...

    router = URLRouter([path("f/", opaque), path("i/", Instance())])

    assert [
        route.target
        for route in websocket_routes(ProtocolTypeRouter({"websocket": router}))
    ] == [f"{__name__}.opaque", f"{__name__}.{Instance.__qualname__}"]


def test_an_application_for_http_alone_has_no_routes():
    assert websocket_routes(ProtocolTypeRouter({"http": opaque})) == []


@with_static_files
def test_djangos_own_application_has_no_routes():
    assert websocket_routes(ASGIStaticFilesHandler(get_asgi_application())) == []


@pytest.mark.parametrize(
    "app",
    [opaque, ProtocolTypeRouter({"websocket": opaque})],
    ids=["a function", "sockets without URLs"],
)
def test_hidden_routes_are_unknown(app):
    assert websocket_routes(app) is None


def test_a_circle_of_wrappers_ends():
    circle = AccessLog(opaque, print)
    circle.application = circle

    assert websocket_routes(circle) is None


# Log lines


@pytest.mark.parametrize(
    ("status", "level"),
    [
        (200, "INFO"),
        (302, "INFO"),
        (304, "INFO"),
        (404, "WARNING"),
        (400, "WARNING"),
        (500, "ERROR"),
    ],
)
def test_a_request_is_logged_with_its_status(caplog, status, level):
    caplog.set_level(logging.INFO, "django.channels.server")

    Command(no_color=True).log_action(
        "http",
        "complete",
        {
            "method": "GET",
            "path": "/",
            "status": status,
            "time_taken": 0.25,
            "client": "127.0.0.1:5",
        },
    )

    [record] = caplog.records
    assert record.message == f"HTTP GET / {status} [0.25, 127.0.0.1:5]"
    assert (record.name, record.levelname) == ("django.channels.server", level)


@pytest.mark.parametrize(
    ("action", "word"),
    [
        ("connecting", "HANDSHAKING"),
        ("connected", "CONNECT"),
        ("rejected", "REJECT"),
        ("disconnected", "DISCONNECT"),
    ],
)
def test_a_socket_is_logged_from_handshake_to_close(caplog, action, word):
    caplog.set_level(logging.INFO, "django.channels.server")

    Command().log_action("websocket", action, {"path": "/ws/", "client": "1.2.3.4:5"})

    assert caplog.messages == [f"WebSocket {word} /ws/ [1.2.3.4:5]"]


class Actions(list):
    """An action logger that remembers."""

    def __call__(self, protocol, action, details):
        self.append((protocol, action, details["path"], details.get("status")))


async def test_the_access_log_has_a_request_with_its_query_and_status():
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 418, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    actions = Actions()
    await HttpCommunicator(AccessLog(app, actions), "GET", "/tea/?a=1").get_response()

    assert actions == [("http", "complete", "/tea/?a=1", 418)]


async def test_the_access_log_has_no_credential_of_a_query():
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    actions = Actions()
    query = "a=1&token=hush&b&cf_connect=hush&ticket="
    await HttpCommunicator(AccessLog(app, actions), "GET", f"/?{query}").get_response()

    [(_, _, logged, _)] = actions
    assert logged == "/?a=1&token=***&b&cf_connect=***&ticket="


@pytest.mark.parametrize("character", ["\n", "\r", "\x1b", "\x85", "\u2028"])
async def test_the_access_log_has_an_unprintable_character_encoded(character):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    actions = Actions()
    path = f"/a{character}HTTP GET /forged"
    await HttpCommunicator(AccessLog(app, actions), "GET", quote(path)).get_response()

    [(_, _, logged, _)] = actions
    assert logged == quote(path)


async def test_the_access_log_has_a_failed_request_as_500():
    async def app(scope, receive, send):
        raise ValueError("no tea")

    actions = Actions()
    with pytest.raises(ValueError, match="no tea"):
        await HttpCommunicator(AccessLog(app, actions), "GET", "/").get_response()

    assert actions == [("http", "complete", "/", 500)]


async def test_the_access_log_has_a_socket_without_its_query():
    actions = Actions()

    async with WebsocketCommunicator(AccessLog(Chat(), actions), "/ws/?token=secret"):
        pass

    assert [(action, where) for _, action, where, _ in actions] == [
        ("connecting", "/ws/"),
        ("connected", "/ws/"),
        ("disconnected", "/ws/"),
    ]


@pytest.mark.parametrize("fails", [True, False])
async def test_the_access_log_has_a_refused_socket(fails):
    class Refusing(AsyncWebsocketConsumer):
        async def connect(self):
            if fails:
                raise ValueError("no tea")
            await self.close()

    actions = Actions()
    socket = WebsocketCommunicator(AccessLog(Refusing(), actions), "/ws/")
    if fails:
        with pytest.raises(ValueError, match="no tea"):
            await socket.connect()
    else:
        await socket.connect()
        await socket.disconnect()

    assert [action for _, action, *_ in actions] == ["connecting", "rejected"]


# The server by itself


def test_a_server_stopped_before_it_ran_does_not_run():
    server = DevelopmentServer(port=0)
    server.stop()

    server.run(opaque)

    assert server.wait(0)


async def test_a_server_runs_in_an_existing_event_loop():
    server = DevelopmentServer(port=0)
    ready = asyncio.Event()
    serving = asyncio.create_task(server.serve(opaque, on_ready=ready.set))
    await asyncio.wait_for(ready.wait(), 10)

    server.stop()

    await asyncio.wait_for(serving, 10)
    assert server.wait(0)


def test_a_failing_lifespan_is_an_error_and_does_not_end_the_process():
    async def app(scope, receive, send):
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no water"})

    server = DevelopmentServer(port=0)

    with pytest.raises(StartupFailed, match="lifespan startup failed"):
        server.run(app)


def test_a_development_certificate_is_kept_and_valid_for_this_machine(tmp_path):
    made = development_certificate("::1", tmp_path)
    first = made.read_bytes()

    assert development_certificate("::1", tmp_path).read_bytes() == first
    assert made.stat().st_mode & 0o777 == 0o600
    names = x509.load_pem_x509_certificate(first).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert names.value.get_values_for_type(x509.DNSName) == ["localhost"]


def test_a_development_certificate_that_ends_soon_is_made_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(certificate, "_VALID", datetime.timedelta(days=1))
    first = development_certificate("localhost", tmp_path).read_bytes()

    assert development_certificate("localhost", tmp_path).read_bytes() != first


def test_a_server_with_a_certificate_speaks_tls(tmp_path):
    made = development_certificate("localhost", tmp_path)
    server = DevelopmentServer(
        "localhost", 0, options=ServerOptions(certificate=str(made))
    )
    thread = threading.Thread(target=server.run, args=(application,))
    thread.start()
    trusting = ssl.create_default_context(cafile=made)

    async def open_socket():
        # Not the client with threads: before Python 3.13, one that reads a TLS socket and
        # one that writes to it at the same time may wait for ever.
        address = f"wss://localhost:{server.port}/ws/chat/tea/"
        async with async_connect(address, ssl=trusting):
            pass

    try:
        asyncio.run(open_socket())
    finally:
        server.stop()
        thread.join(20)


def test_a_host_with_colons_is_bound_as_ipv6():
    server = DevelopmentServer("::1", 0)

    assert server._socket.family == socket.AF_INET6
    server.close()


def test_a_connection_that_does_not_end_is_cut_after_the_timeout():
    cancelled = threading.Event()

    async def app(scope, receive, send):
        if scope["type"] != "http":
            raise ValueError(scope["type"])
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    server = DevelopmentServer(port=0, options=ServerOptions(graceful_timeout=0))
    thread = threading.Thread(target=server.run, args=(app,))
    thread.start()
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/") as response:
        assert response.read(1) == b"x"
        server.stop()
        thread.join(20)

    assert cancelled.is_set()
    assert not thread.is_alive()


# A real one

SETTINGS = """
SECRET_KEY = "x"
DEBUG = True
ALLOWED_HOSTS = ["127.0.0.1"]
INSTALLED_APPS = ["tiderace", "django.contrib.staticfiles"]
STATIC_URL = "static/"
ROOT_URLCONF = "site_urls"
ASGI_APPLICATION = "site_asgi.application"
CHANNEL_LAYERS = {"default": {"BACKEND": "tiderace.layers.InMemoryChannelLayer"}}
"""
URLS = """
from django.http import HttpResponse
from django.urls import path
urlpatterns = [path("hello/", lambda request: HttpResponse("hello"))]
"""
ASGI = """
from django.urls import path
from tiderace.routing import get_application
from site_consumers import Greeter
application = get_application(
    [path("ws/<room>/", Greeter.as_asgi())], settings="site_settings",
    middleware=None, origins=["*"], allow_missing_origin=True,
)
"""
CONSUMERS = """
from pathlib import Path
from tiderace.generic.websocket import AsyncWebsocketConsumer

class Greeter(AsyncWebsocketConsumer):
    async def connect(self):
        await self.accept()
        await self.send(text_data="GREETING")

    async def disconnect(self, code):
        with Path("disconnects").open("a") as file:
            file.write(f"{code} ")
"""


class Project:
    """A project in a directory, and ``runserver`` in it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.ws = f"ws://127.0.0.1:{self.port}/ws/tea/"
        self.log = directory / "log"
        for name, source in (
            ("site_settings", SETTINGS),
            ("site_urls", URLS),
            ("site_asgi", ASGI),
            ("site_consumers", CONSUMERS),
        ):
            (directory / f"{name}.py").write_text(source)

    def start(self, *arguments: str) -> None:
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "django",
                    "runserver",
                    str(self.port),
                    *arguments,
                ],
                cwd=self.directory,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={
                    **os.environ,
                    "PYTHONPATH": str(self.directory),
                    "PYTHONUNBUFFERED": "1",
                    "DJANGO_SETTINGS_MODULE": "site_settings",
                },
                start_new_session=True,
            )

    def said(self, text: str) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(self.log.read_text())
        return text in self.log.read_text()

    def wait_for(self, text: str) -> None:
        wait_until(lambda: self.said(text), timeout=40, what=f"{text!r}")

    def greeting(self) -> str | None:
        """Return the first message to a new socket; None while there is no server."""
        try:
            with connect(self.ws) as client:
                return client.recv(timeout=20)
        except (OSError, TimeoutError):
            return None

    def end(self) -> None:
        """End the reloader and the server it started."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(20)


@pytest.fixture
def project(tmp_path):
    made = Project(tmp_path)
    yield made
    made.end()


def close_by_touching(client, file: Path) -> ConnectionClosed:
    """Touch ``file`` until the reloader, which looks once a second, has noticed."""
    for later in range(1, 40):
        os.utime(file, (time.time() + later, time.time() + later))
        try:
            client.recv(timeout=1)
        except TimeoutError:
            continue
        except ConnectionClosed as closed:
            return closed
    raise AssertionError("the server did not reload")


@pytest.mark.timeout(150)
def test_sockets_close_with_1012_on_reload_and_reconnect_to_the_new_code(project):
    project.start("--skip-checks")
    wait_until(lambda: project.greeting() == "GREETING", timeout=40)
    consumers = project.directory / "site_consumers.py"

    with connect(project.ws) as client:
        assert client.recv(timeout=20) == "GREETING"
        consumers.write_text(CONSUMERS.replace("GREETING", "welcome back"))
        closed = close_by_touching(client, consumers)

    assert closed.rcvd.code == 1012
    wait_until(lambda: project.greeting() == "welcome back", timeout=40)
    assert "1012" in (project.directory / "disconnects").read_text().split()


def test_a_running_server_prints_its_routes_and_serves_them(project):
    project.start("--noreload")
    project.wait_for(
        f"ws://127.0.0.1:{project.port}/ws/<room>/  site_consumers.Greeter"
    )
    http = f"http://127.0.0.1:{project.port}"

    assert urllib.request.urlopen(f"{http}/hello/").read() == b"hello"
    assert (
        b"WebSocket"
        in urllib.request.urlopen(f"{http}/static/tiderace/tiderace.js").read()
    )
    assert project.greeting() == "GREETING"
    with pytest.raises(urllib.error.HTTPError) as missing:
        urllib.request.urlopen(f"{http}/nowhere/")
    missing.value.close()

    assert project.said(f"Starting development server at {http}/")
    project.wait_for("HTTP GET /hello/ 200 [")
    project.wait_for("HTTP GET /nowhere/ 404 [")
    project.wait_for("WebSocket DISCONNECT /ws/tea/ [127.0.0.1:")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_server_gracefully(project, number):
    project.start("--noreload", "--skip-checks")
    wait_until(lambda: project.greeting() == "GREETING", timeout=40)

    with connect(project.ws) as client:
        client.recv(timeout=20)
        project.process.send_signal(number)
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(timeout=20)

    assert closed.value.rcvd.code == 1012
    project.process.wait(20)
    assert "1012" in (project.directory / "disconnects").read_text().split()


def test_a_port_in_use_is_an_error(project):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", project.port))
        taken.listen()
        project.start("--noreload", "--skip-checks")
        project.process.wait(40)

    assert "That port is already in use." in project.log.read_text()


# Mistakes in ASGI_APPLICATION


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """Return a function that writes a module of a project's package ``shop``."""
    (tmp_path / "shop").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def write(name: str, source: str) -> Path:
        file = tmp_path / "shop" / f"{name}.py"
        file.write_text(source)
        return file

    yield write
    for name in set(sys.modules) - before:
        del sys.modules[name]


def refused(application: str) -> str:
    """Return the error with which ``runserver`` refuses this ``ASGI_APPLICATION``."""
    with (
        override_settings(
            ASGI_APPLICATION=application, WSGI_APPLICATION="shop.wsgi.application"
        ),
        pytest.raises(CommandError) as raised,
    ):
        Command().get_application({})
    return str(raised.value)


def test_an_import_that_fails_in_asgi_py_is_named_with_file_and_line(shop):
    file = shop("asgi", "\nimport no_such_package\n")

    text = refused("shop.asgi.application")

    assert "No module named 'no_such_package'" in text
    assert f"({file}, line 2)" in text
    assert "Add this line" not in text


def test_an_import_that_fails_below_asgi_py_is_named_with_its_file(shop):
    shop("asgi", "import shop.routing\n")
    file = shop("routing", "from shop.consumers import Chat\n")

    assert f"({file}, line 1)" in refused("shop.asgi.application")


def test_a_setting_that_differs_from_the_usual_one_gets_the_line_to_add(shop):
    shop("asgi", "application = len\n")

    assert 'ASGI_APPLICATION = "shop.asgi.application"' in refused("shop.asgi.app")
    assert 'ASGI_APPLICATION = "shop.asgi.application"' in refused("shop.agsi.app")


def test_the_usual_setting_is_not_advised_again(shop):
    shop("asgi", "app = len\n")

    assert refused("shop.asgi.application") == (
        "Cannot find 'application' in ASGI_APPLICATION module shop.asgi"
    )


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("application = 3", "of type int and no ASGI application"),
        (
            "from django.core.handlers import wsgi\napplication = wsgi.WSGIHandler()",
            "a WSGI application and no ASGI application",
        ),
    ],
)
def test_an_application_of_another_kind_is_refused(shop, source, what):
    shop("asgi", source)

    assert f"shop.asgi.application, which is {what}" in refused("shop.asgi.application")


# The script of the browser client


@pytest.fixture
def script(monkeypatch):
    """Return a function that logs a request for the script of the browser client."""
    monkeypatch.setattr(application_parts, "_missing_client_logged", False)

    def request(status: int, path: str = "/static/tiderace/tiderace.js") -> None:
        details = {"method": "GET", "path": path, "status": status}
        Command().log_action(
            "http", "complete", {**details, "time_taken": 0, "client": ""}
        )

    return request


@pytest.mark.parametrize(
    ("changed", "advice"),
    [
        ({"INSTALLED_APPS": ["tiderace"]}, 'add "django.contrib.staticfiles" to'),
        ({"DEBUG": True}, "other servers do not: add WhiteNoise"),
        ({"DEBUG": False}, "run manage.py collectstatic"),
    ],
)
@with_static_files
def test_a_script_that_is_not_served_is_logged_once(script, caplog, changed, advice):
    with override_settings(**changed):
        script(404)
        script(404)

    [record] = [each for each in caplog.records if each.name == "tiderace.server"]
    text = record.getMessage()
    assert "the browser client /static/tiderace/tiderace.js is not served (404)" in text
    assert advice in text


def test_a_hashed_script_that_is_not_served_is_logged(script, caplog):
    script(404, "/s/tiderace/tiderace.0a1b2c.js?v=1")

    assert "/s/tiderace/tiderace.0a1b2c.js is not served" in caplog.text


def test_a_script_that_is_served_and_other_files_are_not_logged(script, caplog):
    script(200)
    script(404, "/static/app.js")

    assert not [each for each in caplog.records if each.name == "tiderace.server"]


async def test_the_application_notes_it_under_any_server(script, settings, caplog):
    settings.ROOT_URLCONF = ()
    application = get_application([], middleware=None)

    request = HttpCommunicator(
        application,
        "GET",
        "/static/tiderace/tiderace.js",
        headers=[(b"host", b"testserver")],
    )
    await request.get_response()
    await request.wait()

    assert "/static/tiderace/tiderace.js is not served (404)" in caplog.text


# Channel layers


def layers(**config):
    backend = "tiderace.layers.redis.RedisChannelLayer"
    return {"default": {"BACKEND": backend, "CONFIG": config}}


def reported(**changed) -> str:
    """Return the command's lines about the channel layers."""
    errors = io.StringIO()
    with override_settings(**changed):
        Command(stderr=errors, no_color=True).report_layers()
    return errors.getvalue()


def test_a_broker_that_is_away_at_the_start_is_reported():
    text = reported(
        CHANNEL_LAYERS=layers(hosts=["redis://127.0.0.1:1"], publish_timeout=0.1)
    )

    assert "The channel layer 'default' does not work: " in text
    assert "127.0.0.1:1 could not be reached" in text


def test_a_layer_that_works_is_not_reported(redis_url):
    assert reported(CHANNEL_LAYERS=layers(hosts=[redis_url])) == ""
    assert reported(CHANNEL_LAYERS={}) == ""
