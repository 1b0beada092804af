"""Tests of the origins of pages that use topics."""

from __future__ import annotations

import logging
import re

import pytest
from django.urls import path

from support.clients.stream_client import JSON, request
from tiderace.routing import get_application
from tiderace.security import page_origins
from tiderace.security.origins import site_of
from tiderace.security.page_origins import origin_problem
from tiderace.security.websocket import AllowedHostsOriginValidator, OriginValidator
from tiderace.testing import WebsocketCommunicator
from tiderace.topics import TopicsEndpoint


@pytest.fixture(autouse=True)
def site(settings):
    settings.ALLOWED_HOSTS = [".site.test", "[::1]"]
    return settings


@pytest.fixture
def forgotten():
    """Clear what other tests have logged."""
    page_origins._logged.clear()
    yield
    page_origins._logged.clear()


def scope_of(origin, host="site.test", scheme="http", **headers):
    """Return the scope of a request; ``x_forwarded_host="…"`` is a header."""
    given = {"host": host, "origin": origin, **headers}
    return {
        "type": "http",
        "path": "/connection/sse",
        "scheme": scheme,
        "headers": [
            (name.replace("_", "-").encode(), value.encode())
            for name, value in given.items()
            if value is not None
        ],
    }


def problem_of(scope, validator, named):
    return origin_problem(scope, validator, named, site_of(scope))


def allowed(scope, *named):
    return problem_of(scope, AllowedHostsOriginValidator(None), named) is None


# Same origin


@pytest.mark.parametrize(
    ("origin", "host", "scheme"),
    [
        ("http://site.test", "site.test", "http"),
        ("http://site.test", "site.test:80", "ws"),
        ("http://SITE.test:80", "Site.test", "http"),
        ("http://site.test:8000", "site.test:8000", "ws"),
        ("https://site.test", "site.test", "wss"),
        ("https://site.test", "site.test:443", "https"),
        ("https://site.test:8443", "site.test:8443", "wss"),
        ("http://[::1]:8000", "[::1]:8000", "http"),
    ],
)
def test_a_page_of_the_same_origin_is_allowed(origin, host, scheme):
    assert allowed(scope_of(origin, host, scheme))


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("https://site.test", "site.test"),
        ("https://site.test", "site.test:443"),
        ("https://site.test:8443", "site.test:8443"),
    ],
)
def test_an_https_page_is_allowed_behind_a_proxy_that_ends_tls_without_a_header(
    origin, host
):
    assert allowed(scope_of(origin, host, "http"))


@pytest.mark.parametrize(
    ("origin", "host", "scheme"),
    [
        ("http://site.test:8001", "site.test", "http"),
        ("http://site.test", "site.test:8001", "http"),
        ("http://site.test:8001", "site.test:8000", "http"),
        ("https://site.test:8443", "site.test", "https"),
        ("http://site.test", "site.test", "https"),
        ("http://site.test:443", "site.test", "https"),
        ("http://a.site.test", "site.test", "http"),
        ("http://a.site.test", "b.site.test", "http"),
        ("ftp://site.test", "site.test", "http"),
    ],
)
def test_another_port_scheme_or_host_of_the_site_is_another_origin(
    origin, host, scheme
):
    assert not allowed(scope_of(origin, host, scheme))


@pytest.mark.parametrize("origin", ["https://evil.test", "null", "", "http://[::1"])
def test_a_host_outside_allowed_hosts_is_refused_even_as_the_own_origin(origin):
    assert not allowed(scope_of(origin, "evil.test", "https"))


def test_a_wildcard_in_allowed_hosts_still_requires_the_same_origin(site):
    site.ALLOWED_HOSTS = ["*"]

    assert allowed(scope_of("http://site.test"))
    assert not allowed(scope_of("http://evil.test"))


def test_sec_fetch_site_same_origin_is_trusted():
    page = "https://www.site.test"

    assert allowed(scope_of(page, "app:8000", sec_fetch_site="same-origin"))
    assert not allowed(scope_of(page, "app:8000", sec_fetch_site="same-site"))


def test_without_a_host_header_allowed_hosts_decide():
    assert allowed(scope_of("http://www.site.test:5000", host=None))
    assert not allowed(scope_of("http://evil.test", host=None))


@pytest.mark.parametrize("host", ["site.test:port", "site.test:99999", "[::1", ":80"])
def test_an_invalid_host_header_matches_no_page(host):
    assert not allowed(scope_of("http://site.test", host))


# Proxies


def test_the_forwarded_host_of_a_trusted_proxy_is_used(site):
    scope = scope_of("http://site.test", "app:8000", x_forwarded_host="site.test, app")

    assert not allowed(scope)
    site.TIDERACE = {"TRUSTED_PROXIES": 1}
    assert allowed(scope)


def test_use_x_forwarded_host_is_respected(site):
    site.USE_X_FORWARDED_HOST = True

    assert allowed(scope_of("http://site.test", "app", x_forwarded_host="site.test"))
    assert allowed(scope_of("http://site.test", "site.test"))


def test_use_x_forwarded_port_is_respected(site):
    scope = scope_of("http://site.test:8080", x_forwarded_port="8080")

    assert not allowed(scope)
    site.USE_X_FORWARDED_PORT = True
    assert allowed(scope)
    assert allowed(scope_of("http://site.test", x_forwarded_port="none"))


@pytest.mark.parametrize(("proto", "accepted"), [("https", False), ("http", True)])
def test_the_forwarded_scheme_of_a_trusted_proxy_is_used(site, proto, accepted):
    site.TIDERACE = {"TRUSTED_PROXIES": ["10.0.0.0/8"]}

    assert allowed(scope_of("http://site.test", x_forwarded_proto=proto)) is accepted


@pytest.mark.parametrize(("said", "accepted"), [("on", False), ("off", True)])
def test_secure_proxy_ssl_header_is_respected(site, said, accepted):
    site.SECURE_PROXY_SSL_HEADER = ("HTTP_X_TLS", "on")

    assert allowed(scope_of("http://site.test", x_tls=said)) is accepted
    assert allowed(scope_of("http://site.test"))


# Listed origins


@pytest.mark.parametrize(
    ("trusted", "origin"),
    [
        ("http://site.test:5173", "http://site.test:5173"),
        ("https://*.site.test", "https://a.site.test"),
    ],
)
def test_csrf_trusted_origins_are_allowed(site, trusted, origin):
    assert not allowed(scope_of(origin))
    site.CSRF_TRUSTED_ORIGINS = [trusted]
    assert allowed(scope_of(origin))
    assert not allowed(scope_of("http://site.test:5174"))


def test_origins_of_the_endpoint_are_allowed():
    page = scope_of("http://site.test:5173")

    assert allowed(page, "http://site.test:5173")
    assert allowed(page, "*")
    assert not allowed(page, "http://site.test:5174")


def test_a_validator_with_a_list_of_origins_decides_alone():
    validator = OriginValidator(None, ["partner.test"])

    assert problem_of(scope_of("https://partner.test:99"), validator, None) is None
    assert problem_of(scope_of("http://site.test"), validator, None) is not None


@pytest.mark.parametrize(
    ("entry", "origin"),
    [("null", "null"), (re.compile(r"tauri://\w+"), "tauri://localhost")],
)
def test_apps_may_use_topics_where_their_origin_is_listed(entry, origin):
    validator = OriginValidator(None, ["site.test", entry])

    assert problem_of(scope_of(origin), validator, None) is None
    assert problem_of(scope_of("file://"), validator, None) is not None


@pytest.mark.parametrize("entry", ["https://*.site.test", "https://münchen.test"])
def test_a_wrong_origin_of_an_endpoint_is_an_error_where_it_is_mounted(entry):
    class Endpoint(TopicsEndpoint):
        allowed_origins = [entry]

    with pytest.raises(ValueError, match="matches no page"):
        Endpoint.as_asgi()


def test_a_string_as_the_origins_of_get_application_is_an_error():
    with pytest.raises(ValueError, match="write a list"):
        get_application([], origins="site.test")


@pytest.mark.parametrize(
    ("entry", "cookies"), [("null", False), ("tauri://localhost", True)]
)
async def test_only_origins_of_one_app_may_send_cookies(entry, cookies):
    class Endpoint(TopicsEndpoint):
        allowed_origins = [entry]

    answer = await request(
        Endpoint.as_asgi(),
        "OPTIONS",
        "/connection/http_stream",
        headers=((b"host", b"site.test"), (b"origin", entry.encode())),
    )

    assert answer.headers[b"access-control-allow-origin"] == entry.encode()
    assert (b"access-control-allow-credentials" in answer.headers) is cookies


def test_a_problem_names_both_origins_and_the_setting():
    problem = problem_of(
        scope_of("http://site.test:5173", "site.test:8000"),
        AllowedHostsOriginValidator(None),
        None,
    )

    assert "'http://site.test:5173'" in problem.reason
    assert "'http://site.test:8000'" in problem.reason
    assert "CSRF_TRUSTED_ORIGINS" in problem.advice


def test_a_header_cannot_add_a_line_to_the_log():
    scope = scope_of("http://site.test:81", "site\ntest")

    problem = problem_of(scope, AllowedHostsOriginValidator(None), None)

    assert "\n" not in problem.reason


# Development


def test_debug_allows_another_port_and_logs_it_once(site, forgotten, caplog):
    site.DEBUG = True
    vite = scope_of("http://site.test:5173", "site.test:8000")

    assert allowed(vite)
    assert allowed(vite)

    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "only because DEBUG is on" in record.getMessage()
    assert "CSRF_TRUSTED_ORIGINS" in record.getMessage()


def test_debug_allows_no_other_host(site):
    site.DEBUG = True

    assert not allowed(scope_of("http://evil.test"))


def test_debug_logs_at_most_fifty_pages(site, forgotten, caplog):
    site.DEBUG = True
    for port in range(8000, 8100):
        assert allowed(scope_of(f"http://site.test:{port}", "site.test:80"))

    assert len(caplog.records) == 50


# The endpoint


async def accepts(app, *headers):
    socket = WebsocketCommunicator(app, "/connection/websocket", headers=[*headers])
    accepted, _ = await socket.connect()
    if accepted:
        await socket.disconnect()
    return accepted


HOST = (b"host", b"site.test")
OTHER_PORT = (b"origin", b"http://site.test:81")


def applications(**options):
    """Return a mounted endpoint, and one alone."""
    route = path("connection/", TopicsEndpoint.as_asgi())
    return (
        get_application([route], middleware=None, **options),
        TopicsEndpoint.as_asgi(),
    )


async def test_a_websocket_of_a_page_on_another_port_is_refused(caplog):
    for app in applications():
        caplog.clear()

        assert not await accepts(app, HOST, OTHER_PORT)

        (record,) = caplog.records
        assert "refused websocket '/connection/websocket'" in record.getMessage()
        assert "not that of the site" in record.getMessage()
        assert record.reason == "origin_refused"


async def test_a_websocket_of_a_page_of_the_site_is_accepted():
    for app in applications():
        assert await accepts(app, HOST, (b"origin", b"http://site.test"))


async def test_an_http_request_of_a_page_on_another_port_is_refused():
    for app in applications():
        for route in ("http_stream", "sse", "emulation"):
            answer = await request(
                app,
                "POST",
                f"/connection/{route}",
                body=b"{}",
                headers=(HOST, OTHER_PORT, JSON),
            )
            assert answer.status == 403
            assert b"access-control-allow-origin" not in answer.headers


async def test_an_endpoint_allows_websockets_of_its_allowed_origins():
    class Partners(TopicsEndpoint):
        allowed_origins = ["http://site.test:81"]

    route = path("connection/", Partners.as_asgi())
    for app in (get_application([route], middleware=None), Partners.as_asgi()):
        assert await accepts(app, HOST, OTHER_PORT)
        assert not await accepts(app, HOST, (b"origin", b"http://site.test:82"))


async def test_the_origins_of_get_application_allow_any_port():
    built, _ = applications(origins=["site.test"])

    assert await accepts(built, HOST, OTHER_PORT)


async def test_an_endpoint_alone_accepts_websockets_without_an_origin():
    built, alone = applications()

    assert await accepts(alone, HOST)
    assert not await accepts(built, HOST)


async def test_consumers_keep_the_origin_rule_of_channels():
    async def consumer(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        await receive()

    app = get_application([path("connection/websocket", consumer)], middleware=None)

    assert await accepts(app, HOST, OTHER_PORT)
