"""``manage.py tiderace_serve``: its options, its refusals, and real processes of it."""

from __future__ import annotations

import asyncio
import contextlib
import io
import re
import signal
import socket
import sys
from unittest import mock
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
import uvicorn
from django.core.management import CommandError, call_command
from django.test import override_settings
from websockets.asyncio.client import connect, unix_connect

from support.servers.asgi_process import AsgiProcess
from support.waiting import wait_until

pytestmark = [pytest.mark.servers, pytest.mark.timeout(120)]

LAYERS = {
    "default": {
        "BACKEND": "tiderace.layers.redis.RedisChannelLayer",
        "CONFIG": {"hosts": ["redis://127.0.0.1:1"]},
    }
}
IN_MEMORY = {"default": {"BACKEND": "tiderace.layers.InMemoryChannelLayer"}}
SITE = {
    "ASGI_APPLICATION": "sites.live_site.application",
    "CHANNEL_LAYERS": LAYERS,
}


def run(*arguments, **settings):
    """Call the command up to where it would serve; return its configuration and output."""
    output = io.StringIO()
    served = []

    def serve(server, sockets):
        served.append((server.config, sockets[0].getsockname()))
        server.started = True

    with (
        override_settings(**{**SITE, **settings}),
        mock.patch.object(uvicorn.Server, "run", serve),
    ):
        call_command(
            "tiderace_serve", *arguments, stdout=output, stderr=output, no_color=True
        )
    [(config, address)] = served
    return config, address, output.getvalue()


def refusal(*arguments, **settings):
    """Return the error with which the command ends."""
    with pytest.raises(CommandError) as error:
        run("--bind", "0", *arguments, **settings)
    return str(error.value)


# Options


def test_the_routes_are_printed_with_their_prefix():
    _, _, output = run("--bind", "0", "--path", "/live/")

    assert "WebSockets and topics of sites.live_site.application on 0" in output
    assert "  /live/ws/echo/  sites.live_site.Echo" in output


@pytest.mark.parametrize("address", ["0", ":0", "127.0.0.1:0", "localhost:0"])
def test_an_address_is_a_port_or_a_host_with_a_port(address):
    assert run("--bind", address)[1][0] == "127.0.0.1"


def test_an_address_may_be_ipv6():
    assert run("--bind", "[::1]:0")[1][0] == "::1"


def test_an_address_may_be_a_unix_socket_whose_clients_are_trusted(tmp_path):
    path = tmp_path / "live.sock"

    config, address, _ = run("--bind", f"unix:{path}")

    assert address == str(path)
    assert config.forwarded_allow_ips == "*"
    assert path.stat().st_mode & 0o777 == 0o666


def test_a_proxy_at_an_address_is_not_trusted_without_being_named():
    assert run("--bind", "0")[0].forwarded_allow_ips != "*"


def test_the_socket_of_an_ended_process_is_replaced(tmp_path):
    path = tmp_path / "live.sock"
    with socket.socket(socket.AF_UNIX) as ended:
        ended.bind(str(path))

    run("--bind", f"unix:{path}")


def test_the_socket_of_a_running_process_is_not_replaced(tmp_path):
    path = tmp_path / "live.sock"
    with socket.socket(socket.AF_UNIX) as running:
        running.bind(str(path))
        running.listen()

        assert "Address already in use" in refusal("--bind", f"unix:{path}")


@pytest.mark.parametrize("address", ["", "live", "host:", "1:2:3", "70000", "unix"])
def test_an_address_that_is_none_is_refused_with_the_forms(address):
    assert "write PORT, HOST:PORT, [IPV6]:PORT or unix:PATH" in refusal(
        "--bind", address
    )


def test_a_path_without_a_slash_is_refused_with_the_right_one():
    assert "/live" in refusal("--path", "live")


def test_fewer_than_one_worker_is_refused():
    assert refusal("--workers", "0") == "--workers is 0; use 1 or more"


# Settings


def test_the_error_without_asgi_application_has_the_line_to_add():
    error = refusal(ASGI_APPLICATION=None)

    assert 'Add ASGI_APPLICATION = "settings.asgi.application"' in error
    assert "get_application()" in error


def test_an_application_without_websockets_is_refused():
    django_only = "django.core.handlers.asgi.ASGIHandler"

    with mock.patch(
        "tiderace.management.commands.tiderace_serve.websocket_routes", return_value=[]
    ):
        assert "serves no WebSockets" in refusal(ASGI_APPLICATION=django_only)


def test_an_application_that_cannot_be_imported_is_refused():
    assert "no_such_module" in refusal(ASGI_APPLICATION="no_such_module.application")


def test_without_a_layer_the_error_has_the_setting():
    assert 'write "BACKEND": "tiderace.layers.' in refusal(CHANNEL_LAYERS={})


def test_a_layer_in_memory_is_reported_with_the_line_to_change():
    _, _, output = run("--bind", "0", CHANNEL_LAYERS=IN_MEMORY)

    assert "the channel layer 'default' is in memory" in output
    assert 'write "BACKEND": "tiderace.layers.' in output


def test_a_layer_in_memory_is_refused_with_several_workers():
    error = refusal("--workers", "2", CHANNEL_LAYERS=IN_MEMORY)

    assert "nor between the 2 workers" in error


def test_the_error_without_uvicorn_has_the_pip_command():
    with mock.patch.dict(sys.modules, {"uvicorn": None}):
        # patch.dict puts them back.
        for name in ("production", "development"):
            sys.modules.pop(f"tiderace.server.{name}", None)

        assert 'pip install "tiderace[server]"' in refusal()


# Processes


class Sockets(AsgiProcess):
    """The sockets of ``sites.servers_site``.

    Args:
        folder: for the journal of the consumers.
        options: further options of the command.
        env: further variables.
    """

    def __init__(self, folder, *options, **env):
        self.journal = folder / "journal"
        self.journal.touch()
        self._options = options
        env = {
            "DJANGO_SETTINGS_MODULE": "sites.servers_site.settings",
            "SERVERS_SITE_JOURNAL": str(self.journal),
            **env,
        }
        super().__init__("tiderace_serve", "", env=env)

    def _line(self, application):
        python = (sys.executable, "-W", "default", "-m", "django")
        address = ("--bind", f"127.0.0.1:{self.port}", *self._options)
        return [*python, "tiderace_serve", *address]


def status(url):
    try:
        with urlopen(url, timeout=10) as page:
            return page.status
    except HTTPError as error:
        return error.code


async def test_sockets_are_served_and_pages_are_not(tmp_path):
    with Sockets(tmp_path, SERVERS_SITE_DEBUG="1") as server:
        async with connect(f"{server.ws}/life/tea/", max_size=None) as client:
            await client.send("hello")
            assert await client.recv() == "HELLO"
        assert await asyncio.to_thread(status, f"{server.http}/groups/") == 404
        assert await asyncio.to_thread(status, f"{server.http}/readyz") == 200

        assert "http path '/groups/' from 127.0.0.1" in server.output()


async def test_sigterm_drains(tmp_path):
    with Sockets(tmp_path) as server:
        client = await connect(f"{server.ws}/life/tea/")

        server.process.send_signal(signal.SIGTERM)

        await client.wait_closed()
        assert client.close_code == 1012
        assert re.fullmatch(r"retry-after=[\d.]+", client.close_reason)
        await asyncio.to_thread(server.process.wait, 15)
        assert "tea disconnect 1012" in server.journal.read_text()


async def test_workers_share_the_socket_and_each_drains(tmp_path, redis_url, prefix):
    path = tmp_path / "live.sock"
    options = ("--workers", "2", "--path", "/live", "--bind", f"unix:{path}")
    env = {"SERVERS_SITE_REDIS": redis_url, "SERVERS_SITE_PREFIX": prefix}

    def connected():
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as probe:
            return path.exists() and probe.connect_ex(str(path)) == 0

    with Workers(tmp_path, *options, **env) as server:
        await asyncio.to_thread(wait_until, connected, what="listening", timeout=30)
        clients = [
            await unix_connect(str(path), "ws://localhost/live/life/tea/")
            for _ in range(8)
        ]
        await clients[0].send("all:hello")
        assert [await each.recv() for each in clients] == ["tea: hello"] * 8

        server.process.send_signal(signal.SIGTERM)

        for client in clients:
            await client.wait_closed()
        assert {client.close_code for client in clients} == {1012}
        await asyncio.to_thread(server.process.wait, 15)


class Workers(Sockets):
    """The same without a port."""

    def _listens(self):
        return "WebSockets and topics of" in self.output()
