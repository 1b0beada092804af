"""Tests of the live-server test case, in a thread and in a process."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from functools import partial
from pathlib import Path
from unittest import mock

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.core.exceptions import ImproperlyConfigured
from django.db import connection
from django.test import override_settings
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

import tiderace.testing
from support.paths import TESTS
from tiderace.testing.live import (
    ChannelsLiveServerTestCase,
    ServerProcess,
    ServerThread,
    make_application,
    set_database_connection,
)

on_the_live_site = override_settings(
    ASGI_APPLICATION="sites.live_site.application",
    ROOT_URLCONF="sites.live_site",
    STATIC_URL="/static/",
    INSTALLED_APPS=[*settings.INSTALLED_APPS, "django.contrib.staticfiles"],
)


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=20) as response:
        return response.read().decode()


# The test case


@on_the_live_site
class TheLiveServer(ChannelsLiveServerTestCase):
    """One server for all of these."""

    def test_serves_http(self):
        assert fetch(f"{self.live_server_url}/hello/") == "hello"

    def test_serves_websockets(self):
        with connect(f"{self.live_server_ws_url}/ws/echo/") as socket:
            socket.send("tea")

            assert socket.recv(timeout=20) == "tea"

    async def test_serves_an_async_test(self):
        async with connect_async(f"{self.live_server_ws_url}/ws/echo/") as socket:
            await socket.send("tea")

            assert await socket.recv() == "tea"

    def test_serves_static_files(self):
        script = fetch(f"{self.live_server_url}/static/tiderace/tiderace.js")

        assert "WebSocket" in script

    def test_shares_its_database_with_views(self):
        User.objects.create(username="alice")

        assert fetch(f"{self.live_server_url}/users/") == "alice"

    def test_shares_its_database_with_sync_consumers_in_both_directions(self):
        User.objects.create(username="alice")

        with connect(f"{self.live_server_ws_url}/ws/register/") as socket:
            socket.send("bob")
            names = json.loads(socket.recv(timeout=20))

        assert names == ["alice", "bob"]
        assert User.objects.filter(username="bob").exists()

    def test_shares_its_database_with_async_consumers(self):
        User.objects.create(username="alice")

        with connect(f"{self.live_server_ws_url}/ws/users/") as socket:
            assert json.loads(socket.recv(timeout=20)) == ["alice"]

    def test_the_database_is_empty_again_for_the_next_test(self):
        assert fetch(f"{self.live_server_url}/users/") == ""

    def test_sees_what_the_test_patches(self):
        with mock.patch("sites.live_site.GREETING", "patched"):
            assert fetch(f"{self.live_server_url}/hello/") == "patched"

    def test_refuses_an_unknown_path(self):
        with pytest.raises(InvalidStatus) as caught:
            connect(f"{self.live_server_ws_url}/nowhere/")

        assert caught.value.response.status_code == 404

    def test_allows_its_host(self):
        assert "localhost" in settings.ALLOWED_HOSTS

    def test_says_where_it_is_on_the_class_too(self):
        port = type(self)._port

        assert TheLiveServer.live_server_url == f"http://localhost:{port}"
        assert TheLiveServer.live_server_ws_url == f"ws://localhost:{port}"


@on_the_live_site
class WithoutStaticFiles(ChannelsLiveServerTestCase):
    """``serve_static = False``."""

    serve_static = False

    def test_static_files_are_not_served(self):
        with pytest.raises(urllib.error.HTTPError) as caught:
            fetch(f"{self.live_server_url}/static/tiderace/tiderace.js")

        assert caught.value.code == 404
        caught.value.close()


def run_class(case: type[ChannelsLiveServerTestCase]) -> None:
    """Set up and tear down a class as a test runner does."""
    try:
        case.setUpClass()
    finally:
        case.doClassCleanups()
    for _, error, trace in case.tearDown_exceptions:
        raise error.with_traceback(trace)


@pytest.mark.django_db(transaction=True)
@on_the_live_site
def test_a_server_process_refuses_a_database_in_memory():
    class Case(ChannelsLiveServerTestCase):
        ProtocolServerProcess = ServerProcess

    with pytest.raises(ImproperlyConfigured, match="in-memory database of default"):
        run_class(Case)


@pytest.mark.django_db(transaction=True)
@override_settings(ASGI_APPLICATION="sites.live_site.nothing_there")
def test_the_error_of_a_failed_start_contains_the_reason():
    class Case(ChannelsLiveServerTestCase):
        pass

    with pytest.raises(RuntimeError, match=r"(?s)did not start:.*'nothing_there'"):
        run_class(Case)


@pytest.mark.django_db(transaction=True)
@on_the_live_site
def test_the_server_and_its_shared_database_end_with_the_class():
    class Case(ChannelsLiveServerTestCase):
        pass

    run_class(Case)

    assert not Case._server_process.is_alive()
    assert not connection.allow_thread_sharing


@on_the_live_site
def test_a_server_class_with_the_interface_of_daphne_is_used():
    calls = []

    class Recorded:
        port = mock.Mock(value=4321)
        ready = mock.Mock(**{"wait.return_value": True})

        def __init__(self, host, get_application, kwargs=None, setup=None):
            calls.append((host, get_application.func, setup.func))

        def start(self):
            calls.append("start")

        def is_alive(self):
            return True

        def terminate(self):
            calls.append("terminate")

        def join(self):
            calls.append("join")

    class Case(ChannelsLiveServerTestCase):
        ProtocolServerProcess = Recorded

    with mock.patch.object(Case, "_is_in_memory_db", return_value=False):
        run_class(Case)

    assert Case.live_server_url == "http://localhost:4321"
    assert calls == [
        ("localhost", make_application, set_database_connection),
        "start",
        "terminate",
        "join",
    ]


def test_a_database_on_disk_is_served_from_a_thread_and_from_a_process(tmp_path):
    """Under Django's own test runner, with connections of the server's own."""
    (tmp_path / "disk_settings.py").write_text(
        "from settings import *\n"
        "ASGI_APPLICATION = 'sites.live_site.application'\n"
        "ROOT_URLCONF = 'sites.live_site'\n"
        f"DATABASES['default']['NAME'] = {str(tmp_path / 'site.sqlite3')!r}\n"
        f"DATABASES['default']['TEST'] = {{'NAME': {str(tmp_path / 'test.sqlite3')!r}}}\n"
    )
    (tmp_path / "test_disk.py").write_text(
        "import json\n"
        "from django.contrib.auth.models import User\n"
        "from websockets.sync.client import connect\n"
        "from tiderace.testing.live import *\n"
        "class OnAThread(ChannelsLiveServerTestCase):\n"
        "    def test_both_directions(self):\n"
        "        User.objects.create(username='alice')\n"
        "        with connect(f'{self.live_server_ws_url}/ws/register/') as socket:\n"
        "            socket.send('bob')\n"
        "            names = json.loads(socket.recv(timeout=20))\n"
        "        self.assertEqual(names, ['alice', 'bob'])\n"
        "        self.assertEqual(User.objects.count(), 2)\n"
        "class InAProcess(OnAThread):\n"
        "    ProtocolServerProcess = ServerProcess\n"
    )

    result = subprocess.run(
        [sys.executable, "-W", "error", "-m", "django", "test", "test_disk"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=50,
        env={
            **os.environ,
            "PYTHONPATH": f"{TESTS}{os.pathsep}{tmp_path}",
            "DJANGO_SETTINGS_MODULE": "disk_settings",
        },
    )

    assert result.returncode == 0, result.stderr
    assert "Ran 2 tests" in result.stderr


def test_the_test_case_is_found_in_the_package_by_its_name():
    assert tiderace.testing.ChannelsLiveServerTestCase is ChannelsLiveServerTestCase


# What is sent to another process


@override_settings(ASGI_APPLICATION="sites.live_site.application")
def test_make_application_wraps_the_application_of_the_settings():
    from sites import live_site

    assert make_application(static_wrapper=None) is live_site.application
    assert make_application(static_wrapper=lambda inner: ("wrapped", inner)) == (
        "wrapped",
        live_site.application,
    )


def test_the_functions_of_the_module_can_be_pickled():
    for function in (make_application, set_database_connection):
        assert pickle.loads(pickle.dumps(function)) is function


@pytest.mark.parametrize(
    ("database", "name"),
    [
        ({"NAME": "shop"}, "test_shop"),
        ({"NAME": "test_shop"}, "test_shop"),
        ({"NAME": "shop", "TEST": {"NAME": "trial"}}, "trial"),
    ],
)
def test_set_database_connection_selects_the_test_database(database, name):
    fake = mock.Mock(settings_dict={})
    with (
        mock.patch.dict(settings.DATABASES, {"default": database}),
        mock.patch("tiderace.testing.live.connections", {"default": fake}),
    ):
        set_database_connection()

        assert settings.DATABASES["default"]["NAME"] == name
        assert fake.settings_dict["NAME"] == name


# The thread and the process


async def answer(scope, receive, send):
    """Says hello over HTTP, accepts sockets and waits for their end."""
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})
    elif scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass
    else:
        raise ValueError(scope["type"])


def get_answer():
    return answer


def cannot():
    raise LookupError("no application today")


class Unpicklable(Exception):
    """Cannot be sent to another process."""

    def __reduce__(self):
        raise TypeError("not to be pickled")


def cannot_even_say():
    raise Unpicklable("secret")


@pytest.fixture(params=[ServerThread, ServerProcess])
def serving(request):
    """Start a server of either kind; whatever is started is ended."""
    started = []

    def start(get_application=get_answer, **kwargs):
        server = request.param("127.0.0.1", get_application, **kwargs)
        server.start()
        started.append(server)
        return server

    yield start
    for server in started:
        server.terminate()
        server.join(20)
        assert not server.is_alive()


def test_a_ready_server_has_its_port(serving):
    server = serving()

    assert server.ready.wait(20)
    assert fetch(f"http://127.0.0.1:{server.port.value}/") == "hello"


def test_a_server_that_ends_closes_its_sockets_with_1012(serving):
    server = serving()
    assert server.ready.wait(20)

    with connect(f"ws://127.0.0.1:{server.port.value}/") as socket:
        server.terminate()

        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=20)

    assert closed.value.rcvd.code == 1012


def test_a_server_without_its_application_reports_the_error(serving):
    server = serving(cannot)

    error, trace = server.errors.get()

    assert isinstance(error, LookupError)
    assert "no application today" in trace
    server.join(20)
    assert not server.ready.is_set()


def test_options_of_daphne_are_applied_or_ignored(serving):
    server = serving(
        kwargs={"websocket_max_message_size": 10, "http_timeout": 5, "ping_interval": 1}
    )
    assert server.ready.wait(20)

    with connect(f"ws://127.0.0.1:{server.port.value}/") as socket:
        socket.send("x" * 11)

        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=20)

    assert closed.value.rcvd.code == 1009


@pytest.mark.parametrize("kind", [ServerThread, ServerProcess])
def test_an_unknown_server_option_is_refused_by_name(kind):
    with pytest.raises(TypeError, match="no option 'websocket_timeot'"):
        kind("127.0.0.1", get_answer, kwargs={"websocket_timeot": 5})


def test_the_thread_calls_setup_and_teardown_around_serving():
    calls = []
    server = ServerThread(
        "127.0.0.1",
        get_answer,
        setup=lambda: calls.append(("setup", threading.current_thread().name)),
        teardown=lambda: calls.append(("teardown", threading.current_thread().name)),
    )

    server.start()
    assert server.ready.wait(20)
    server.terminate()
    server.join(20)

    assert calls == [
        ("setup", "tiderace-live-server"),
        ("teardown", "tiderace-live-server"),
    ]


def note(path: str, word: str) -> None:
    with Path(path).open("a") as file:
        file.write(f"{word} ")


def test_the_process_calls_setup_and_teardown_around_serving(tmp_path):
    log = tmp_path / "log"
    server = ServerProcess(
        "127.0.0.1",
        get_answer,
        setup=partial(note, str(log), "setup"),
        teardown=partial(note, str(log), "teardown"),
    )

    server.start()
    assert server.ready.wait(20)
    server.terminate()
    server.join(20)

    assert log.read_text() == "setup teardown "
    assert server.exitcode == 0


def test_an_error_that_cannot_be_sent_is_described():
    server = ServerProcess("127.0.0.1", cannot_even_say)
    server.start()

    error, _ = server.errors.get()
    server.join(20)

    assert repr(error) == "RuntimeError(\"Unpicklable('secret')\")"


def test_a_thread_that_was_never_started_can_be_terminated():
    server = ServerThread("127.0.0.1", get_answer)

    server.terminate()
    server.join()

    assert not server.is_alive()


def test_a_port_in_use_is_an_error_at_once():
    first = ServerThread("127.0.0.1", get_answer)
    first.start()
    assert first.ready.wait(20)

    with pytest.raises(OSError, match="in use"):
        ServerThread("127.0.0.1", get_answer, port=first.port.value).start()

    first.terminate()
    first.join(20)


def test_a_spawned_process_has_the_alias_before_unpickling_its_arguments(tmp_path):
    """A child made by ``spawn`` starts with nothing imported, unlike a forked one."""
    (tmp_path / "shop.py").write_text(
        "from channels.routing import ProtocolTypeRouter\n"
        "import tiderace.routing\n"
        "def get():\n"
        "    assert ProtocolTypeRouter is tiderace.routing.ProtocolTypeRouter\n"
        "    return answer\n"
        "async def answer(scope, receive, send):\n"
        "    start = {'type': 'http.response.start', 'status': 200, 'headers': []}\n"
        "    await send(start)\n"
        "    await send({'type': 'http.response.body', 'body': b'hello'})\n"
    )
    (tmp_path / "main.py").write_text(
        "if __name__ == '__main__':\n"
        "    import tiderace; tiderace.install_as_channels()\n"
        "    import multiprocessing, urllib.request\n"
        "    multiprocessing.set_start_method('spawn')\n"
        "    import django; django.setup()\n"
        "    import shop\n"
        "    from channels.testing.live import ServerProcess\n"
        "    server = ServerProcess('127.0.0.1', shop.get)\n"
        "    server.start()\n"
        "    assert server.ready.wait(20), server.errors.get()\n"
        "    url = f'http://127.0.0.1:{server.port.value}/'\n"
        "    print(urllib.request.urlopen(url).read())\n"
        "    server.terminate(); server.join(20)\n"
    )

    result = subprocess.run(
        [sys.executable, tmp_path / "main.py"],
        capture_output=True,
        text=True,
        timeout=50,
        env={
            **os.environ,
            "PYTHONPATH": f"{TESTS}",
            "DJANGO_SETTINGS_MODULE": "settings",
        },
    )

    assert result.stdout.strip() == "b'hello'", result.stderr
