"""Tests of the origin validators and their log messages."""

from __future__ import annotations

import logging
import re

import pytest
from asgiref.testing import ApplicationCommunicator

from tiderace.security.websocket import (
    AllowedHostsOriginValidator,
    OriginValidator,
    WebsocketDenier,
)


async def accept(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept"})


def scope_from(*origins: str | bytes, path: str = "/ws/", host: str = "site.test"):
    headers = [(b"host", host.encode())]
    for origin in origins:
        raw = origin if isinstance(origin, bytes) else origin.encode()
        headers.append((b"origin", raw))
    return {
        "type": "websocket",
        "path": path,
        "headers": headers,
        "client": ("10.0.0.7", 5000),
    }


async def answer(application, scope) -> dict:
    communicator = ApplicationCommunicator(application, scope)
    await communicator.send_input({"type": "websocket.connect"})
    event = await communicator.receive_output()
    await communicator.wait(timeout=1)
    return event


async def passes(allowed, *origins, **options) -> bool:
    validator = OriginValidator(accept, allowed, **options)
    event = await answer(validator, scope_from(*origins))
    return event["type"] == "websocket.accept"


@pytest.mark.parametrize(
    ("pattern", "origin"),
    [
        ("*", "https://anyone.test"),
        ("*", "null"),
        ("*", "http://[::1"),
        ("site.test", "http://site.test"),
        ("site.test", "https://site.test:8443"),
        ("SITE.test", "http://site.TEST"),
        (".site.test", "http://site.test"),
        (".site.test", "http://a.b.site.test"),
        ("[::1]", "http://[::1]:8000"),
        ("http://site.test", "http://site.test"),
        ("http://site.test", "http://site.test:80"),
        ("http://site.test:80", "http://site.test"),
        ("https://site.test", "https://site.test:443"),
        ("http://site.test:8000", "http://site.test:8000"),
        ("HTTP://Site.test", "http://site.test"),
        ("http://.site.test", "http://www.site.test"),
        ("ws://site.test", "ws://site.test:80"),
        ("wss://site.test:443", "wss://site.test"),
        ("foo://site.test", "foo://site.test"),
        ("::1", "http://[::1]:8000"),
        ("null", "null"),
        ("file://", "file://"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("tauri://localhost", "tauri://localhost"),
        ("chrome-extension://abcdefghijklmnop", "chrome-extension://abcdefghijklmnop"),
        (re.compile(r"https://pr-\d+\.site\.test"), "https://pr-7.site.test"),
        (re.compile("moz-extension://.*"), "moz-extension://6e-7f"),
        (re.compile("null"), "null"),
    ],
)
async def test_an_allowed_origin_is_accepted(pattern, origin):
    assert await passes([pattern], origin)


@pytest.mark.parametrize(
    ("pattern", "origin"),
    [
        ("site.test", "http://other.test"),
        ("site.test", "http://www.site.test"),
        ("site.test", "null"),
        ("site.test", ""),
        ("site.test", "site.test"),
        ("site.test", "garbage in here"),
        ("site.test", "http://[::1"),
        ("site.test", "http://site.test:port"),
        ("site.test", b"http://\xff\xfe"),
        ("http://site.test", "https://site.test"),
        ("http://site.test", "http://site.test:8000"),
        ("http://site.test:8000", "http://site.test"),
        ("https://site.test:443", "https://site.test:8443"),
        ("http://site.test", "http://www.site.test"),
        ("http://site.test", "http://site.test:99999"),
        ("foo://site.test", "foo://site.test:1"),
        ("null", "http://null"),
        ("null", "file://"),
        ("file://", "null"),
        ("file://", "file://host"),
        ("capacitor://localhost", "http://localhost"),
        ("chrome-extension://abcdefghijklmnop", "chrome-extension://ponmlkjihgfedcba"),
        (re.compile("https://site"), "https://site.test"),
        (re.compile(".*"), "http://[::1"),
    ],
)
async def test_another_origin_is_refused(pattern, origin):
    assert not await passes([pattern], origin)


@pytest.mark.parametrize(
    "entry",
    [
        "*.site.test",
        "https://*.site.test",
        "https://",
        "https://site.test:port",
        "localhost:8000",
        "http//site.test",
        "//site.test",
        "site test",
        "[::1",
        "",
        None,
        b"site.test",
    ],
)
def test_an_entry_that_can_match_no_origin_is_an_error(entry):
    with pytest.raises(ValueError, match="the origin "):
        OriginValidator(accept, ["site.test", entry])


def test_a_string_instead_of_a_list_is_an_error():
    with pytest.raises(ValueError, match="write a list"):
        OriginValidator(accept, "site.test")


async def test_a_generator_of_origins_is_good_for_several_sockets():
    validator = OriginValidator(accept, (each for each in ["site.test"]))
    for _ in range(2):
        event = await answer(validator, scope_from("http://site.test"))
        assert event["type"] == "websocket.accept"


async def test_an_empty_list_allows_no_origin():
    assert not await passes([], "http://site.test")


async def test_one_matching_pattern_among_several_is_enough():
    assert await passes(["other.test", "site.test"], "http://site.test")


async def test_a_missing_origin_is_refused():
    assert not await passes(["site.test"])


async def test_a_missing_origin_is_accepted_if_all_origins_are():
    assert await passes(["*"])


async def test_a_missing_origin_is_accepted_if_that_is_allowed():
    assert await passes(["site.test"], allow_missing=True)


async def test_an_unreadable_origin_is_not_treated_as_missing():
    assert not await passes(["site.test"], "http://[::1", allow_missing=True)


async def test_the_last_of_several_origins_counts():
    assert await passes(["site.test"], "http://other.test", "http://site.test")
    assert not await passes(["site.test"], "http://site.test", "http://other.test")


async def test_an_upper_case_header_is_not_an_origin():
    scope = scope_from() | {"headers": [(b"Origin", b"http://site.test")]}

    event = await answer(OriginValidator(accept, ["site.test"]), scope)

    assert event == {"type": "websocket.close"}


async def test_a_refusal_is_a_close_without_a_code():
    event = await answer(
        OriginValidator(accept, ["site.test"]), scope_from("http://other.test")
    )

    assert event == {"type": "websocket.close"}


async def test_the_application_gets_the_same_scope_and_its_result_is_returned():
    async def application(scope, receive, send):
        return scope

    scope = scope_from("http://site.test")

    assert await OriginValidator(application, ["*"])(scope, None, None) is scope


async def test_other_connections_than_websockets_are_an_error():
    validator = OriginValidator(accept, ["*"])

    with pytest.raises(ValueError, match="non-WebSocket"):
        await validator({"type": "http", "headers": []}, None, None)


async def test_a_subclass_can_override_the_decision():
    class Friends(OriginValidator):
        def validate_origin(self, parsed_origin):
            return parsed_origin.hostname.endswith("friend.test")

    validator = Friends(accept, ["site.test"])

    event = await answer(validator, scope_from("http://my-friend.test"))
    assert event["type"] == "websocket.accept"


async def test_a_subclass_can_allow_missing_origins():
    class Lenient(OriginValidator):
        def valid_origin(self, parsed_origin):
            return parsed_origin is None or super().valid_origin(parsed_origin)

    event = await answer(Lenient(accept, ["site.test"]), scope_from())

    assert event["type"] == "websocket.accept"


def test_application_and_list_are_plain_attributes():
    allowed = ["site.test"]
    validator = OriginValidator(accept, allowed)

    assert validator.application is accept
    assert validator.allowed_origins is allowed


async def refuse(caplog, scope, validator=None) -> str:
    caplog.set_level(logging.DEBUG, logger="tiderace")
    await answer(validator or OriginValidator(accept, ["site.test"]), scope)
    (record,) = caplog.records
    assert record.name == "tiderace.security"
    assert record.levelno == logging.WARNING
    return record.getMessage()


async def test_a_refusal_is_one_line_with_origin_host_reason_and_remedy(caplog):
    line = await refuse(caplog, scope_from("http://evil.test", path="/ws/room/"))

    assert "'/ws/room/'" in line
    assert "host 'site.test'" in line
    assert "10.0.0.7:5000" in line
    assert "origin 'http://evil.test' is not allowed" in line
    assert "allowed_origins" in line
    assert "(allowed: site.test)" in line


async def test_a_refusal_by_allowed_hosts_names_that_setting(caplog, settings):
    settings.ALLOWED_HOSTS = ["site.test"]

    line = await refuse(
        caplog, scope_from("http://evil.test"), AllowedHostsOriginValidator(accept)
    )

    assert "add the page's host to the setting ALLOWED_HOSTS" in line


@pytest.mark.parametrize(
    ("origin", "advice"),
    [
        ("null", "add 'null' to the origins of get_application()"),
        ("file://", "add 'file://' to the origins of get_application()"),
        ("tauri://localhost", "add 'tauri://localhost' to the origins of get_app"),
        ("http://[::1", "no setting allows it"),
    ],
)
async def test_the_advice_fits_the_origin(caplog, settings, origin, advice):
    settings.ALLOWED_HOSTS = ["site.test"]

    line = await refuse(caplog, scope_from(origin), AllowedHostsOriginValidator(accept))

    assert advice in line
    assert "ALLOWED_HOSTS" not in line


async def test_the_log_lists_regular_expressions(caplog):
    validator = OriginValidator(accept, [re.compile("https://a")])

    assert "re.compile('https://a')" in await refuse(caplog, scope_from("x"), validator)


async def test_the_log_of_a_missing_origin_contains_the_remedy(caplog):
    line = await refuse(caplog, scope_from())

    assert "no Origin header" in line
    assert "allow_missing=True" in line


async def test_a_client_cannot_add_a_second_line_to_the_log(caplog):
    scope = scope_from(b"http://evil.test\nforged", path="/ws/\nforged", host="a\nb")

    line = await refuse(caplog, scope)

    assert "\n" not in line


async def test_a_very_long_origin_does_not_fill_the_log(caplog):
    line = await refuse(caplog, scope_from("http://" + "e" * 50_000))

    assert len(line) < 1000


async def test_an_allowed_socket_is_not_logged(caplog):
    caplog.set_level(logging.DEBUG, logger="tiderace")

    assert await passes(["site.test"], "http://site.test")

    assert caplog.records == []


async def test_allowed_hosts_are_the_allowed_origins(settings):
    settings.ALLOWED_HOSTS = ["site.test"]
    validator = AllowedHostsOriginValidator(accept)

    assert isinstance(validator, OriginValidator)
    assert validator.allowed_origins == ["site.test"]
    event = await answer(validator, scope_from("https://site.test:8443"))
    assert event["type"] == "websocket.accept"


async def test_allowed_hosts_are_read_for_each_handshake(settings):
    settings.ALLOWED_HOSTS = ["site.test"]
    validator = AllowedHostsOriginValidator(accept)

    settings.ALLOWED_HOSTS = ["other.test"]

    event = await answer(validator, scope_from("https://other.test"))
    assert event["type"] == "websocket.accept"
    event = await answer(validator, scope_from("https://site.test"))
    assert event["type"] == "websocket.close"


def test_empty_allowed_hosts_with_debug_allow_localhost(settings):
    settings.DEBUG = True
    settings.ALLOWED_HOSTS = []

    validator = AllowedHostsOriginValidator(accept)

    assert validator.allowed_origins == ["localhost", "127.0.0.1", "[::1]"]


def test_empty_allowed_hosts_without_debug_allow_nothing(settings):
    settings.ALLOWED_HOSTS = []

    assert AllowedHostsOriginValidator(accept).allowed_origins == []


async def test_missing_origins_can_be_allowed_with_allowed_hosts(settings):
    settings.ALLOWED_HOSTS = ["site.test"]
    validator = AllowedHostsOriginValidator(accept, allow_missing=True)

    event = await answer(validator, scope_from())

    assert event["type"] == "websocket.accept"


@pytest.mark.parametrize("denier", [WebsocketDenier(), WebsocketDenier.as_asgi()])
async def test_the_denier_closes_before_accepting(denier):
    assert await answer(denier, scope_from()) == {"type": "websocket.close"}


async def test_the_denier_sends_nothing_to_a_disconnected_client():
    communicator = ApplicationCommunicator(WebsocketDenier(), scope_from())
    await communicator.send_input({"type": "websocket.disconnect", "code": 1006})

    await communicator.wait(timeout=1)

    assert await communicator.receive_nothing()
