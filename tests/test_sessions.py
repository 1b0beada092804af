"""Cookies and sessions in the scope, and when a session is saved."""

from __future__ import annotations

import datetime
from http.cookies import SimpleCookie

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.contrib.sessions.backends.db import SessionStore
from django.contrib.sessions.models import Session
from django.core.exceptions import SuspiciousOperation
from django.utils.http import parse_http_date

from tiderace.runtime.threads import current
from tiderace.sessions import (
    CookieMiddleware,
    InstanceSessionWrapper,
    SessionMiddleware,
    SessionMiddlewareStack,
)


class Recorder:
    """An inner app that keeps the scope it was called with."""

    def __init__(self, use=None):
        self.scope = None
        self.use = use

    async def __call__(self, scope, receive, send):
        self.scope = scope
        if self.use is not None:
            await self.use(scope, send)
        return "result"


class Sent(list):
    async def __call__(self, event):
        self.append(event)

    def cookies(self) -> SimpleCookie:
        found = SimpleCookie()
        for name, value in self[0].get("headers", []):
            if name == b"Set-Cookie":
                found.load(value.decode())
        return found


def serve(application, scope, sent=None):
    """Run an app to its end from a sync test, so that it sees the test's database."""
    return async_to_sync(application)(scope, None, sent)


def http(cookie: str | None = None, **extra):
    headers = [] if cookie is None else [(b"cookie", cookie.encode("latin1"))]
    return {"type": "http", "path": "/", "headers": headers, **extra}


def websocket(cookie: str | None = None):
    return http(cookie) | {"type": "websocket"}


def respond(status=200, change=None):
    """A use of the session: perhaps change it, then start a response."""

    async def use(scope, send):
        if change is not None:
            await sync_to_async(change)(scope["session"])
        await send({"type": "http.response.start", "status": status, "headers": []})

    return use


def set_tide(session):
    session["tide"] = "high"


def stored_session(**data) -> str:
    store = SessionStore()
    store.update(data)
    store.save()
    return store.session_key


# Cookies


def test_cookies_are_read_from_the_header():
    inner = Recorder()

    serve(CookieMiddleware(inner), http('a=1; b="two words"; c'))

    assert inner.scope["cookies"] == {"a": "1", "b": "two words", "": "c"}


def test_without_a_cookie_header_there_are_no_cookies():
    inner = Recorder()

    serve(CookieMiddleware(inner), http())

    assert inner.scope["cookies"] == {}


def test_a_header_in_capitals_is_no_cookie_header():
    inner = Recorder()

    serve(CookieMiddleware(inner), {"type": "http", "headers": [(b"Cookie", b"a=1")]})

    assert inner.scope["cookies"] == {}


def test_several_cookie_headers_are_merged_and_the_first_value_counts():
    inner = Recorder()
    headers = [(b"cookie", b"a=1"), (b"cookie", b"a=2; b=3")]

    serve(CookieMiddleware(inner), {"type": "http", "headers": headers})

    assert inner.scope["cookies"] == {"a": "1", "b": "3"}


def test_bytes_beyond_ascii_are_latin1():
    inner = Recorder()

    serve(CookieMiddleware(inner), http("name=Zo\xeb"))

    assert inner.scope["cookies"] == {"name": "Zo\xeb"}


def test_a_scope_without_headers_is_refused():
    with pytest.raises(ValueError, match="headers"):
        serve(CookieMiddleware(Recorder()), {"type": "channel"})


def test_the_outer_scope_is_not_changed():
    scope = http("a=1")
    inner = Recorder()

    assert serve(SessionMiddlewareStack(inner), scope) == "result"

    assert set(scope) == {"type", "path", "headers"}
    assert set(inner.scope) == {"type", "path", "headers", "cookies", "session"}


def test_a_cookie_has_path_and_samesite_by_default():
    message = {}

    CookieMiddleware.set_cookie(message, "Testing-Key", "testing-value")

    assert message == {
        "headers": [(b"Set-Cookie", b"Testing-Key=testing-value; Path=/; SameSite=lax")]
    }


def test_a_cookie_is_added_to_the_existing_headers():
    headers = [(b"content-type", b"text/plain")]
    message = {"headers": headers}

    CookieMiddleware.set_cookie(message, "a", "1")
    CookieMiddleware.set_cookie(message, "b", "2")

    assert message["headers"] is headers
    assert [name for name, _ in headers] == [
        b"content-type",
        b"Set-Cookie",
        b"Set-Cookie",
    ]


def test_immutable_headers_are_replaced():
    message = {"headers": ((b"a", b"b"),)}

    CookieMiddleware.set_cookie(message, "c", "1", path=None, samesite=None)

    assert message["headers"] == [(b"a", b"b"), (b"Set-Cookie", b"c=1")]


def cookie(**options) -> str:
    message = {}
    CookieMiddleware.set_cookie(message, "key", "value", **options)
    return message["headers"][0][1].decode()


def test_every_attribute_of_a_cookie_can_be_set():
    text = cookie(
        expires="Thu, 01-Jan-2099 00:00:00 GMT",
        path="/chat",
        domain="example.com",
        secure=True,
        httponly=True,
        samesite="Strict",
    )

    assert text == (
        "key=value; Domain=example.com; expires=Thu, 01-Jan-2099 00:00:00 GMT; "
        "HttpOnly; Path=/chat; SameSite=Strict; Secure"
    )


def test_a_maximum_age_sets_the_date_too():
    text = cookie(max_age=100)

    assert "; Max-Age=100;" in text
    assert "expires=" in text


@pytest.mark.parametrize(
    "zone", [None, datetime.UTC, datetime.timezone(datetime.timedelta(hours=5))]
)
def test_expires_as_a_datetime_sets_max_age(zone):
    moment = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=100)
    moment = moment.replace(tzinfo=None) if zone is None else moment.astimezone(zone)
    jar = SimpleCookie(cookie(expires=moment))

    assert 99 <= int(jar["key"]["max-age"]) <= 100
    assert abs(parse_http_date(jar["key"]["expires"]) - _epoch(moment)) <= 1


def _epoch(moment):
    zone = moment.tzinfo or datetime.UTC
    return moment.replace(tzinfo=zone).timestamp()


def test_a_datetime_in_the_past_makes_no_negative_age():
    jar = SimpleCookie(
        cookie(expires=datetime.datetime(1999, 1, 1, tzinfo=datetime.UTC))
    )

    assert jar["key"]["max-age"] == "0"


@pytest.mark.parametrize("samesite", ["strict", "Lax", "NONE"])
def test_samesite_is_case_insensitive(samesite):
    assert cookie(samesite=samesite).endswith(f"SameSite={samesite}")


@pytest.mark.parametrize("samesite", [None, False])
def test_samesite_can_be_left_to_the_browser(samesite):
    assert "SameSite" not in cookie(samesite=samesite)


@pytest.mark.parametrize("samesite", ["", "sometimes"])
def test_another_samesite_is_refused(samesite):
    with pytest.raises(AssertionError, match="'strict', 'lax' or 'none'"):
        cookie(samesite=samesite)


def test_a_deleted_cookie_is_long_expired():
    message = {}

    CookieMiddleware.delete_cookie(message, "key", path="/chat", domain="example.com")

    ((name, value),) = message["headers"]
    assert name == b"Set-Cookie"
    assert value.decode() == (
        'key=""; Domain=example.com; expires=Thu, 01-Jan-1970 00:00:00 GMT; '
        "Max-Age=0; Path=/chat; SameSite=lax"
    )


# Sessions


@pytest.mark.django_db
def test_the_session_named_by_the_cookie_is_in_the_scope():
    key = stored_session(tide="low")
    seen = []

    async def use(scope, send):
        seen.append((await scope["session"].aget("tide"), scope["session"].session_key))

    serve(SessionMiddlewareStack(Recorder(use)), websocket(f"sessionid={key}"))

    assert seen == [("low", key)]


def test_an_unused_session_needs_no_query():
    # The database is closed to this test.
    inner = Recorder()

    serve(SessionMiddlewareStack(inner), websocket("sessionid=abcdefgh"))

    assert inner.scope["session"].session_key == "abcdefgh"


@pytest.mark.parametrize("value", [r"\000abcdefgh", r"abcdefgh\012", "abcd efgh"])
def test_a_cookie_that_is_no_session_key_is_ignored(value):
    inner = Recorder()

    serve(SessionMiddlewareStack(inner), websocket(f'sessionid="{value}"'))

    assert inner.scope["session"].session_key is None


def test_the_cookie_name_is_djangos_setting(settings):
    settings.SESSION_COOKIE_NAME = "seas"
    inner = Recorder()

    serve(SessionMiddlewareStack(inner), http("sessionid=abcdefgh; seas=ijklmnop"))

    assert inner.scope["session"].session_key == "ijklmnop"


def test_session_middleware_requires_cookie_middleware():
    with pytest.raises(ValueError, match="inside of CookieMiddleware"):
        serve(SessionMiddleware(Recorder()), http())


@pytest.mark.django_db
def test_a_changed_session_is_saved_with_the_response_and_its_cookie_set():
    sent = Sent()

    serve(SessionMiddlewareStack(Recorder(respond(change=set_tide))), http(), sent)

    morsel = sent.cookies()["sessionid"]
    assert SessionStore(morsel.value)["tide"] == "high"
    assert morsel["path"] == "/"
    assert morsel["httponly"]
    assert morsel["samesite"] == "Lax"
    assert int(morsel["max-age"]) == 1209600


@pytest.mark.django_db
def test_the_session_cookie_obeys_its_settings(settings):
    settings.SESSION_COOKIE_NAME = "seas"
    settings.SESSION_COOKIE_PATH = "/chat"
    settings.SESSION_COOKIE_DOMAIN = "example.com"
    settings.SESSION_COOKIE_SECURE = True
    settings.SESSION_COOKIE_HTTPONLY = False
    settings.SESSION_COOKIE_SAMESITE = False
    settings.SESSION_EXPIRE_AT_BROWSER_CLOSE = True
    sent = Sent()

    serve(SessionMiddlewareStack(Recorder(respond(change=set_tide))), http(), sent)

    header = sent[0]["headers"][0][1].decode()
    value, _, rest = header.partition("; ")
    assert value.startswith("seas=")
    assert rest == "Domain=example.com; Path=/chat; Secure"


@pytest.mark.django_db
def test_an_unchanged_session_is_not_saved():
    key = stored_session(tide="low")
    sent = Sent()

    serve(SessionMiddlewareStack(Recorder(respond())), http(f"sessionid={key}"), sent)

    assert sent[0]["headers"] == []


@pytest.mark.django_db
def test_an_unchanged_session_is_saved_with_save_every_request(settings):
    settings.SESSION_SAVE_EVERY_REQUEST = True
    key = stored_session(tide="low")
    sent = Sent()

    serve(SessionMiddlewareStack(Recorder(respond())), http(f"sessionid={key}"), sent)

    assert sent.cookies()["sessionid"].value == key
    assert SessionStore(key)["tide"] == "low"


@pytest.mark.django_db
def test_a_failed_response_saves_no_session():
    sent = Sent()
    use = respond(status=500, change=set_tide)

    serve(SessionMiddlewareStack(Recorder(use)), http(), sent)

    assert sent[0]["headers"] == []
    assert Session.objects.count() == 0


@pytest.mark.django_db
def test_an_emptied_session_deletes_its_cookie_and_its_row():
    key = stored_session(tide="low")
    sent = Sent()
    use = respond(change=lambda session: session.flush())

    serve(SessionMiddlewareStack(Recorder(use)), http(f"sessionid={key}"), sent)

    assert sent.cookies()["sessionid"]["max-age"] == "0"
    assert Session.objects.count() == 0


@pytest.mark.django_db
def test_an_emptied_session_without_a_cookie_sets_none():
    sent = Sent()
    use = respond(change=lambda session: session.flush())

    serve(SessionMiddlewareStack(Recorder(use)), http(), sent)

    assert sent[0]["headers"] == []


@pytest.mark.django_db
def test_a_session_that_was_deleted_meanwhile_raises_suspicious_operation():
    key = stored_session(tide="low")

    def delete_and_change(session):
        session["tide"] = "high"
        Session.objects.all().delete()

    use = respond(change=delete_and_change)
    with pytest.raises(SuspiciousOperation, match="deleted"):
        serve(SessionMiddlewareStack(Recorder(use)), http(f"sessionid={key}"), Sent())


@pytest.mark.django_db
def test_only_the_start_of_a_response_saves():
    async def use(scope, send):
        scope["session"]["tide"] = "high"
        await send({"type": "http.response.body", "body": b""})

    sent = Sent()
    serve(SessionMiddlewareStack(Recorder(use)), http(), sent)

    assert sent == [{"type": "http.response.body", "body": b""}]
    assert Session.objects.count() == 0


@pytest.mark.django_db
def test_a_websocket_saves_no_session_and_sets_no_cookie():
    async def use(scope, send):
        scope["session"]["tide"] = "high"
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close"})

    sent = Sent()
    serve(SessionMiddlewareStack(Recorder(use)), websocket(), sent)

    assert sent == [{"type": "websocket.accept"}, {"type": "websocket.close"}]
    assert Session.objects.count() == 0


@pytest.mark.django_db
def test_a_websocket_can_save_its_session_by_hand():
    key = stored_session(tide="low")

    async def use(scope, send):
        await scope["session"].aset("tide", "high")
        await scope["session"].asave()

    serve(SessionMiddlewareStack(Recorder(use)), websocket(f"sessionid={key}"))

    assert SessionStore(key)["tide"] == "high"


@pytest.mark.django_db
def test_a_subclass_can_set_the_cookie_in_the_accept():
    class OnAccept(InstanceSessionWrapper):
        save_message_types = ["websocket.accept"]
        cookie_response_message_types = ["websocket.accept"]

    async def accept_with_cookie():
        wrapper = OnAccept(websocket() | {"cookies": {}}, sent)
        await wrapper.resolve_session()
        wrapper.scope["session"]["tide"] = "high"
        await wrapper.send({"type": "websocket.accept"})

    sent = Sent()
    async_to_sync(accept_with_cookie)()

    assert SessionStore(sent.cookies()["sessionid"].value)["tide"] == "high"


@pytest.mark.django_db
def test_a_subclass_can_save_on_events_without_headers():
    class OnClose(InstanceSessionWrapper):
        save_message_types = ["websocket.close"]

    key = stored_session(tide="low")

    async def close():
        wrapper = OnClose(websocket() | {"cookies": {"sessionid": key}}, sent)
        await wrapper.resolve_session()
        await wrapper.scope["session"].aset("tide", "high")
        await wrapper.send({"type": "websocket.close"})

    sent = Sent()
    async_to_sync(close)()

    assert sent == [{"type": "websocket.close"}]
    assert SessionStore(key)["tide"] == "high"


@pytest.mark.django_db
def test_a_session_of_outer_middleware_is_kept_and_saved_once():
    sent = Sent()
    inner = Recorder(respond(change=set_tide))

    serve(SessionMiddlewareStack(SessionMiddlewareStack(inner)), http(), sent)

    assert len(sent[0]["headers"]) == 1
    assert Session.objects.count() == 1


def test_a_session_set_by_outer_middleware_needs_no_cookies():
    theirs = SessionStore()
    inner = Recorder()

    serve(SessionMiddleware(inner), {"type": "websocket", "session": theirs})

    assert inner.scope["session"] is theirs


def test_the_inner_application_can_be_given_by_keyword():
    inner = Recorder()
    stack = SessionMiddlewareStack(inner)

    assert isinstance(stack, CookieMiddleware)
    assert isinstance(stack.inner, SessionMiddleware)
    assert stack.inner.inner is inner


@pytest.mark.parametrize(("kind", "own"), [("websocket", True), ("http", False)])
async def test_only_a_websocket_has_its_own_thread(kind, own):
    seen = []

    async def inner(scope, receive, send):
        seen.append(current() is not None)

    await SessionMiddlewareStack(inner)({"type": kind, "headers": []}, None, None)

    assert seen == [own]
    assert current() is None
