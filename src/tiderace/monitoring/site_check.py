"""Requests a running site as a page does: the client's script, and WebSocket handshakes."""

from __future__ import annotations

import base64
import os
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPMessage, HTTPSConnection
from urllib.parse import SplitResult, urljoin, urlsplit

from django.core.exceptions import ImproperlyConfigured
from django.templatetags.static import static

from tiderace.monitoring.doctor import Finding, Level
from tiderace.route_inspection import websocket_routes
from tiderace.routing import get_default_application

__all__ = ["examine_site"]

SCRIPT = "tiderace/tiderace.js"

# A close frame of a client, with the code 1000 and a mask of zeros.
_CLOSE = b"\x88\x82\0\0\0\0\x03\xe8"

_PROXY = (
    "Let the proxy pass the upgrade on; in nginx: proxy_http_version 1.1; "
    "proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "
    '"upgrade"; proxy_set_header Host $host;'
)
_UNREACHED = "Start the site's server, or correct the address in the proxy."
# Answers to a handshake: what each means, and what to do.
_ANSWERS = {
    200: (
        "a page answers, and no WebSocket",
        (
            "Send this path to an ASGI server that runs ASGI_APPLICATION: gunicorn without "
            "an ASGI worker, uWSGI and mod_wsgi serve WSGI, which has no WebSockets."
        ),
    ),
    400: ("the upgrade does not reach the server", _PROXY),
    403: (
        "the server refuses it",
        (
            "If its log says that the origin is refused: add the site's host to "
            "ALLOWED_HOSTS, or its origin to get_application(origins=…). A consumer that "
            "closes without accept(), for example without a user, answers 403 too."
        ),
    ),
    404: (
        "nothing is served there",
        (
            "Compare the path with `manage.py tiderace_routes`; a WSGI server, or a proxy "
            "that does not pass the upgrade on, answers 404 too."
        ),
    ),
    426: ("the upgrade does not reach the server", _PROXY),
    429: (
        "the server has too many connections, or too many from this address",
        "Compare its log with the limits in TIDERACE.",
    ),
    500: (
        "the application raises an error",
        (
            "The traceback is in the log of the server. The asgi.py of startproject has no "
            "WebSockets: build the application with tiderace.routing.get_application()."
        ),
    ),
    502: ("the proxy does not reach the server", _UNREACHED),
    503: (
        "the server takes no connections: it drains, is full, or its broker is away",
        "Its log and its readiness probe say which.",
    ),
    504: ("the proxy gets no answer from the server", _UNREACHED),
}


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: HTTPMessage
    size: int

    @property
    def location(self) -> str | None:
        """The address of a redirect, or None for another answer."""
        return self.headers.get("Location") if 300 <= self.status < 400 else None


def examine_site(url: str, *, timeout: float = 5.0) -> list[Finding]:
    """Request the client's script, and open the site's WebSockets, as a page of it does.

    The handshakes have the site's own origin, and no cookies. Where ``url`` has a path,
    only that is tried; else every WebSocket route of the project without parameters.

    Args:
        url: the address of the site, as a browser has it.
        timeout: seconds for connecting, and for each wait for an answer.

    Raises:
        ValueError: ``url`` is not an address with http:// or https:// and a host.
    """
    site = urlsplit(url)
    if site.scheme not in ("http", "https") or not site.hostname:
        raise ValueError(
            f"{url!r} is not an address of a site; write it as https://example.com"
        )
    origin = f"{site.scheme}://{site.netloc.rpartition('@')[2]}"
    findings = list(_script(origin, timeout))
    paths = [site.path] if site.path.strip("/") else _paths()
    if not paths:
        findings.append(
            Finding(
                Level.NOTE,
                "no WebSocket was tried: the project has no route without parameters",
                "Give --url with the path of one, such as "
                f"{origin}/connection/websocket.",
            )
        )
    findings += [_handshake(origin, path, timeout) for path in paths]
    return findings


def _paths() -> list[str]:
    """Return the paths of the project's WebSocket routes that have no parameters."""
    try:
        routes = websocket_routes(get_default_application()) or []
    except Exception:  # an asgi.py may raise anything; reported under "routes"
        return []
    return [route.path for route in routes if "<" not in route.path]


def _script(origin: str, timeout: float) -> Iterator[Finding]:
    try:
        address = urljoin(origin, static(SCRIPT))
    except (ValueError, ImproperlyConfigured) as error:
        # A manifest without the file; STATIC_URL is not set.
        yield Finding(Level.ERROR, str(error), "Run: python manage.py collectstatic")
        return
    try:
        answer = _request(urlsplit(address), {}, timeout)
    except (OSError, HTTPException) as error:
        yield _failed(address, error, timeout)
        return
    kind = answer.headers.get_content_type()
    if answer.location:
        yield Finding(
            Level.WARNING,
            f"{address} is redirected to {answer.location}",
            "Start again with the address that pages have; a redirect of the script "
            "costs every page a request.",
        )
    elif answer.status == 200 and kind.endswith("javascript"):
        yield Finding(Level.FINE, f"{address}: {answer.size:,} bytes")
    else:
        yield Finding(
            Level.ERROR,
            f"{address} is not the client's script: status {answer.status}, {kind}",
            "Run `python manage.py collectstatic`, and let the proxy or WhiteNoise serve "
            "STATIC_ROOT under STATIC_URL; runserver does it under DEBUG, with "
            '"django.contrib.staticfiles" in INSTALLED_APPS.',
        )


def _handshake(origin: str, path: str, timeout: float) -> Finding:
    address = urljoin(origin, path)
    headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
        "Origin": origin,
    }
    try:
        answer = _request(urlsplit(address), headers, timeout)
    except (OSError, HTTPException) as error:
        return _failed(address, error, timeout)
    status = answer.status
    if status == 101:
        return Finding(Level.FINE, f"{address}: a WebSocket opens with Origin {origin}")
    if answer.location:
        return Finding(
            Level.ERROR,
            f"{address}: status {status}, a redirect to {answer.location}, which "
            "WebSockets do not follow",
            "Use that address for the page and its sockets; behind a proxy that ends "
            "TLS, set SECURE_PROXY_SSL_HEADER.",
        )
    meaning, advice = _ANSWERS.get(
        status, ("no WebSocket opens", "The log of the server or proxy says why.")
    )
    text = f"{address}: status {status} with Origin {origin}: {meaning}"
    return Finding(Level.ERROR, text, advice)


def _request(address: SplitResult, headers: dict[str, str], timeout: float) -> _Answer:
    """Send one GET and read its answer, without following redirects.

    Raises:
        OSError: the server cannot be reached, or TLS fails.
        HTTPException: the answer is not HTTP.
    """
    host, port = address.hostname or "", address.port
    connection = (
        HTTPSConnection(host, port, timeout=timeout)
        if address.scheme == "https"
        else HTTPConnection(host, port, timeout=timeout)
    )
    target = address._replace(scheme="", netloc="").geturl() or "/"
    try:
        connection.request("GET", target, headers=headers)
        response = connection.getresponse()
        if response.status == 101 and connection.sock:
            connection.sock.sendall(_CLOSE)
        return _Answer(response.status, response.headers, len(response.read()))
    finally:
        connection.close()


def _failed(address: str, error: Exception, timeout: float) -> Finding:
    """Return the finding about a request without an answer."""
    if isinstance(error, ssl.SSLCertVerificationError):
        text = f"its certificate is not accepted: {error.verify_message}"
        advice = "Let the server send the whole chain of a valid certificate."
    elif isinstance(error, ssl.SSLError):
        text = f"TLS fails: {error.reason or error}"
        advice = "Compare scheme and port: the port may speak plain HTTP."
    elif isinstance(error, TimeoutError):
        text = f"no answer within {timeout:g} s"
        advice = "A firewall drops packets, or the server is stuck; see --timeout."
    elif isinstance(error, socket.gaierror):
        text = f"the name of the host is not found: {error.strerror}"
        advice = "Correct the address, or the DNS record."
    elif isinstance(error, ConnectionRefusedError):
        text, advice = "nothing listens on this port", _UNREACHED
    else:
        text = f"the connection fails: {type(error).__name__}: {error}"
        advice = "Compare scheme and port: the port may speak TLS, or no HTTP."
    return Finding(Level.ERROR, f"{address}: {text}", advice)
