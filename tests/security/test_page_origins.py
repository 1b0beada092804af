"""Which pages may use topics: those of the same origin, and those that somebody named."""

from __future__ import annotations

import logging

import pytest
from django.urls import path

from support.stream_client import JSON, request
from tiderace.routing import get_application
from tiderace.security import page_origins
from tiderace.security.page_origins import objection
from tiderace.security.websocket import AllowedHostsOriginValidator, OriginValidator
from tiderace.testing import WebsocketCommunicator
from tiderace.topics import TopicsEndpoint


@pytest.fixture(autouse=True)
def site(settings):
    settings.ALLOWED_HOSTS = [".site.test", "[::1]"]
    return settings


@pytest.fixture
def told():
    """What was said of pages in other tests is forgotten."""
    page_origins._told.clear()
    yield
    page_origins._told.clear()


def scope_of(origin, host="site.test", scheme="http", **headers):
    """A request as a server tells of it; ``x_forwarded_host="…"`` is a header."""
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


def may(scope, *named):
    return objection(scope, AllowedHostsOriginValidator(None), named) is None


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
def test_a_page_of_the_same_origin_may(origin, host, scheme):
    assert may(scope_of(origin, host, scheme))


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("https://site.test", "site.test"),
        ("https://site.test", "site.test:443"),
        ("https://site.test:8443", "site.test:8443"),
    ],
)
def test_a_proxy_may_end_tls_and_not_say_so(origin, host):
    assert may(scope_of(origin, host, "http"))


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
    assert not may(scope_of(origin, host, scheme))


@pytest.mark.parametrize("origin", ["https://evil.test", "null", "", "http://[::1"])
def test_a_host_that_is_not_allowed_may_not_though_it_is_asked_for(origin):
    assert not may(scope_of(origin, "evil.test", "https"))


def test_hosts_of_every_name_are_still_one_site_each(site):
    site.ALLOWED_HOSTS = ["*"]

    assert may(scope_of("http://site.test"))
    assert not may(scope_of("http://evil.test"))


def test_the_browser_itself_may_say_that_it_is_the_same_origin():
    page = "https://www.site.test"

    assert may(scope_of(page, "app:8000", sec_fetch_site="same-origin"))
    assert not may(scope_of(page, "app:8000", sec_fetch_site="same-site"))


def test_without_a_host_the_allowed_ones_decide():
    assert may(scope_of("http://www.site.test:5000", host=None))
    assert not may(scope_of("http://evil.test", host=None))


@pytest.mark.parametrize("host", ["site.test:port", "site.test:99999", "[::1", ":80"])
def test_a_host_that_cannot_be_read_is_that_of_no_page(host):
    assert not may(scope_of("http://site.test", host))


# Proxies


def test_the_host_that_a_trusted_proxy_tells_counts(site):
    scope = scope_of("http://site.test", "app:8000", x_forwarded_host="site.test, app")

    assert not may(scope)
    site.TIDERACE = {"TRUSTED_PROXIES": 1}
    assert may(scope)


def test_the_host_that_django_believes_counts(site):
    site.USE_X_FORWARDED_HOST = True

    assert may(scope_of("http://site.test", "app", x_forwarded_host="site.test"))
    assert may(scope_of("http://site.test", "site.test"))


def test_the_port_that_django_believes_counts(site):
    scope = scope_of("http://site.test:8080", x_forwarded_port="8080")

    assert not may(scope)
    site.USE_X_FORWARDED_PORT = True
    assert may(scope)
    assert may(scope_of("http://site.test", x_forwarded_port="none"))


@pytest.mark.parametrize(("proto", "allowed"), [("https", False), ("http", True)])
def test_the_scheme_that_a_trusted_proxy_tells_counts(site, proto, allowed):
    site.TIDERACE = {"TRUSTED_PROXIES": ["10.0.0.0/8"]}

    assert may(scope_of("http://site.test", x_forwarded_proto=proto)) is allowed


@pytest.mark.parametrize(("said", "allowed"), [("on", False), ("off", True)])
def test_the_scheme_that_django_believes_counts(site, said, allowed):
    site.SECURE_PROXY_SSL_HEADER = ("HTTP_X_TLS", "on")

    assert may(scope_of("http://site.test", x_tls=said)) is allowed
    assert may(scope_of("http://site.test"))


# Those that were named


@pytest.mark.parametrize(
    ("trusted", "origin"),
    [
        ("http://site.test:5173", "http://site.test:5173"),
        ("https://*.site.test", "https://a.site.test"),
    ],
)
def test_origins_that_django_trusts_may(site, trusted, origin):
    assert not may(scope_of(origin))
    site.CSRF_TRUSTED_ORIGINS = [trusted]
    assert may(scope_of(origin))
    assert not may(scope_of("http://site.test:5174"))


def test_origins_that_the_endpoint_names_may():
    page = scope_of("http://site.test:5173")

    assert may(page, "http://site.test:5173")
    assert may(page, "*")
    assert not may(page, "http://site.test:5174")


def test_a_list_of_origins_means_what_it_says():
    validator = OriginValidator(None, ["partner.test"])

    assert objection(scope_of("https://partner.test:99"), validator, None) is None
    assert objection(scope_of("http://site.test"), validator, None) is not None


def test_what_is_said_against_it_names_both_and_the_remedy():
    against = objection(
        scope_of("http://site.test:5173", "site.test:8000"),
        AllowedHostsOriginValidator(None),
        None,
    )

    assert "'http://site.test:5173'" in against.reason
    assert "'http://site.test:8000'" in against.reason
    assert "CSRF_TRUSTED_ORIGINS" in against.advice


def test_nobody_writes_a_line_of_their_own_into_the_log():
    scope = scope_of("http://site.test:81", "site\ntest")

    against = objection(scope, AllowedHostsOriginValidator(None), None)

    assert "\n" not in against.reason


# Development


def test_debug_lets_another_port_in_and_says_once_what_it_will_take(site, told, caplog):
    site.DEBUG = True
    vite = scope_of("http://site.test:5173", "site.test:8000")

    assert may(vite)
    assert may(vite)

    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "only because DEBUG is on" in record.getMessage()
    assert "CSRF_TRUSTED_ORIGINS" in record.getMessage()


def test_debug_lets_no_other_site_in(site):
    site.DEBUG = True

    assert not may(scope_of("http://evil.test"))


def test_so_many_pages_are_told_of_and_no_more(site, told, caplog):
    site.DEBUG = True
    for port in range(8000, 8100):
        assert may(scope_of(f"http://site.test:{port}", "site.test:80"))

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
    """A mounted endpoint, and one by itself."""
    route = path("connection/", TopicsEndpoint.as_asgi())
    return (
        get_application([route], middleware=None, **options),
        TopicsEndpoint.as_asgi(),
    )


async def test_a_page_on_another_port_opens_no_socket(caplog):
    for app in applications():
        caplog.clear()

        assert not await accepts(app, HOST, OTHER_PORT)

        (record,) = caplog.records
        assert "refused websocket '/connection/websocket'" in record.getMessage()
        assert "not that of the site" in record.getMessage()
        assert record.reason == "origin_refused"


async def test_a_page_of_the_site_opens_one():
    for app in applications():
        assert await accepts(app, HOST, (b"origin", b"http://site.test"))


async def test_a_page_on_another_port_is_refused_by_http_too():
    for app in applications():
        for door in ("http_stream", "sse", "emulation"):
            answer = await request(
                app,
                "POST",
                f"/connection/{door}",
                body=b"{}",
                headers=(HOST, OTHER_PORT, JSON),
            )
            assert answer.status == 403
            assert b"access-control-allow-origin" not in answer.headers


async def test_an_endpoint_may_name_pages_for_its_sockets():
    class Partners(TopicsEndpoint):
        allowed_origins = ["http://site.test:81"]

    route = path("connection/", Partners.as_asgi())
    for app in (get_application([route], middleware=None), Partners.as_asgi()):
        assert await accepts(app, HOST, OTHER_PORT)
        assert not await accepts(app, HOST, (b"origin", b"http://site.test:82"))


async def test_the_origins_of_get_application_may_be_of_any_port():
    built, _ = applications(origins=["site.test"])

    assert await accepts(built, HOST, OTHER_PORT)


async def test_an_endpoint_alone_takes_programs_that_send_no_origin():
    built, alone = applications()

    assert await accepts(alone, HOST)
    assert not await accepts(built, HOST)


async def test_consumers_are_left_to_the_rule_that_channels_has():
    async def consumer(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        await receive()

    app = get_application([path("connection/websocket", consumer)], middleware=None)

    assert await accepts(app, HOST, OTHER_PORT)
