"""``tiderace_doctor --url``: findings about a site at an address."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from unittest import mock

import pytest
from django.core.management import CommandError, call_command
from django.test import override_settings

from support.servers.asgi_process import RunserverProcess
from tiderace.monitoring.doctor import Finding, Level
from tiderace.monitoring.site_check import examine_site

JAVASCRIPT = {"Content-Type": "text/javascript"}


class Site(ThreadingHTTPServer):
    """A server that gives one answer to handshakes and one to all other requests."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.handshake: tuple[int, dict[str, str]] = (101, {})
        self.file: tuple[int, dict[str, str]] = (200, JAVASCRIPT)
        self.requests: list[tuple[str, dict[str, str]]] = []

    def opened(self, path: str = "/ws/") -> Finding:
        """The finding about the handshake."""
        return examine_site(self.address + path, timeout=5.0)[-1]

    def script(self) -> Finding:
        """The finding about the client's script."""
        return examine_site(self.address + "/ws/", timeout=5.0)[0]


class Handler(BaseHTTPRequestHandler):
    """Records the request, and gives the answer of its site."""

    server: Site
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.requests.append((self.path, dict(self.headers)))
        upgrade = "Upgrade" in self.headers
        status, headers = self.server.handshake if upgrade else self.server.file
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 101:
            self.send_header("Content-Length", "4")
        self.end_headers()
        if status != 101:
            self.wfile.write(b"body")

    def log_message(self, *args: object) -> None:
        """Write nothing to stderr."""


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as site, override_settings(STATIC_URL="/static/"):
        thread = threading.Thread(target=site.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield site
        finally:
            site.shutdown()
            thread.join()


def test_a_site_that_works_has_no_complaint(site):
    findings = examine_site(f"{site.address}/ws/")

    assert [each.level for each in findings] == [Level.FINE, Level.FINE]
    assert findings[0].text.endswith("/static/tiderace/tiderace.js: 4 bytes")


def test_the_handshake_has_the_sites_own_origin(site):
    site.opened("/ws/lobby/?a=1")

    path, headers = site.requests[-1]
    assert path == "/ws/lobby/"
    assert headers["Origin"] == site.address
    assert headers["Sec-WebSocket-Version"] == "13"


def test_without_a_path_every_route_without_parameters_is_tried(site):
    with override_settings(ASGI_APPLICATION="sites.live_site.application"):
        findings = examine_site(site.address)

    tried = [path for path, headers in site.requests if "Upgrade" in headers]
    assert len(tried) == len(findings) - 1 > 0
    assert not [path for path in tried if "<" in path]


def test_a_project_without_such_a_route_is_told_to_name_a_path(site):
    with override_settings(ASGI_APPLICATION=None):
        note = examine_site(site.address)[-1]

    assert note.level is Level.NOTE
    assert f"{site.address}/connection/websocket" in note.advice


@pytest.mark.parametrize(
    ("status", "text", "advice"),
    [
        (200, "a page answers", "serve WSGI"),
        (400, "the upgrade does not reach", "proxy_set_header Upgrade"),
        (403, "the server refuses it", "ALLOWED_HOSTS"),
        (404, "nothing is served there", "tiderace_routes"),
        (426, "the upgrade does not reach", "proxy_set_header Upgrade"),
        (429, "too many connections", "TIDERACE"),
        (500, "raises an error", "get_application()"),
        (502, "does not reach the server", "Start the site's server"),
        (503, "takes no connections", "readiness probe"),
        (504, "no answer from the server", "Start the site's server"),
        (418, "no WebSocket opens", "log"),
    ],
)
def test_the_status_of_a_refused_handshake_is_explained(site, status, text, advice):
    site.handshake = (status, {})

    error = site.opened()

    assert error.level is Level.ERROR
    assert f"status {status} with Origin {site.address}" in error.text
    assert text in error.text
    assert advice in error.advice


def test_a_redirected_handshake_names_the_address(site):
    site.handshake = (301, {"Location": "https://example.com/ws/"})

    error = site.opened()

    assert error.level is Level.ERROR
    assert "a redirect to https://example.com/ws/" in error.text
    assert "SECURE_PROXY_SSL_HEADER" in error.advice


def test_a_script_that_is_not_served_is_an_error(site):
    site.file = (404, {"Content-Type": "text/html"})

    error = site.script()

    assert error.level is Level.ERROR
    assert "status 404, text/html" in error.text
    assert "collectstatic" in error.advice


def test_a_page_in_place_of_the_script_is_an_error(site):
    site.file = (200, {"Content-Type": "text/html; charset=utf-8"})

    assert "status 200, text/html" in site.script().text


def test_a_redirected_script_is_a_warning(site):
    site.file = (302, {"Location": "/elsewhere.js"})

    warning = site.script()

    assert warning.level is Level.WARNING
    assert "redirected to /elsewhere.js" in warning.text


def test_a_script_that_is_missing_in_the_manifest_is_an_error(site):
    missing = ValueError(
        "Missing staticfiles manifest entry for 'tiderace/tiderace.js'"
    )
    with mock.patch("tiderace.monitoring.site_check.static", side_effect=missing):
        error = site.script()

    assert "Missing staticfiles manifest entry" in error.text
    assert "collectstatic" in error.advice


# No answer


@contextmanager
def silent_port() -> Iterator[str]:
    """A port that accepts connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def test_a_server_that_does_not_answer_is_an_error():
    with silent_port() as address:
        error = examine_site(f"http://{address}/ws/", timeout=0.05)[-1]

    assert "no answer within 0.05 s" in error.text


def test_a_port_where_nothing_listens_is_an_error():
    with silent_port() as address:
        pass

    error = examine_site(f"http://{address}/ws/")[-1]

    assert "nothing listens on this port" in error.text


def test_tls_with_a_plain_port_is_an_error(site):
    address = site.address.replace("http:", "https:")

    error = examine_site(f"{address}/ws/")[-1]

    assert "TLS fails" in error.text
    assert "may speak plain HTTP" in error.advice


EXPIRED = ssl.SSLCertVerificationError(1, "certificate verify failed")
EXPIRED.verify_message = "certificate has expired"


@pytest.mark.parametrize(
    ("raised", "text"),
    [
        (EXPIRED, "its certificate is not accepted: certificate has expired"),
        (socket.gaierror(-2, "Name or service not known"), "Name or service not known"),
        (ConnectionResetError(104, "reset"), "ConnectionResetError"),
    ],
)
def test_other_failures_are_named(site, raised, text):
    with mock.patch("socket.create_connection", side_effect=raised):
        error = site.opened()

    assert error.level is Level.ERROR
    assert text in error.text
    assert error.advice


# The command


@pytest.mark.parametrize("url", ["example.com", "wss://example.com/ws/", "https://"])
def test_an_address_that_is_none_of_a_site_is_refused(url):
    with pytest.raises(CommandError, match=r"write it as https://example\.com"):
        call_command("tiderace_doctor", url=url)


def test_offline_and_an_address_exclude_each_other():
    with pytest.raises(CommandError, match="not allowed with"):
        call_command("tiderace_doctor", "--offline", "--url", "https://example.com")


@pytest.mark.servers
def test_a_running_site_is_examined(capsys, tmp_path):
    settings = "sites.guide_site.settings"
    database = {"GUIDE_SITE_DB": str(tmp_path / "guide.sqlite3")}
    with (
        RunserverProcess(settings, env=database) as server,
        override_settings(STATIC_URL="/static/"),
        suppress(CommandError),  # findings about the settings of these tests
    ):
        url = f"{server.http}/ws/high/"
        call_command("tiderace_doctor", "--url", url, no_color=True)

    _, _, site = capsys.readouterr().out.partition("\nsite\n")
    script, handshake = site.splitlines()
    assert script.startswith(f"  ok       {server.http}/static/tiderace/tiderace.js: ")
    assert handshake == (
        f"  ok       {url}: a WebSocket opens with Origin {server.http}"
    )
