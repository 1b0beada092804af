"""Tests of users of connections: look-up, login, logout and outer middleware."""

from __future__ import annotations

import asyncio
import threading

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth import (
    BACKEND_SESSION_KEY,
    HASH_SESSION_KEY,
    SESSION_KEY,
    user_logged_in,
    user_logged_out,
)
from django.contrib.auth.models import AnonymousUser, User, update_last_login
from django.contrib.sessions.backends.db import SessionStore
from django.contrib.sessions.models import Session
from django.core.exceptions import ImproperlyConfigured
from django.utils.functional import LazyObject, SimpleLazyObject

from tiderace import auth
from tiderace.auth import (
    AuthMiddleware,
    AuthMiddlewareStack,
    BaseMiddleware,
    CookieMiddleware,
    SessionMiddleware,
    UserLazyObject,
    get_user,
    login,
    logout,
)
from tiderace.db import DatabaseSyncToAsync
from tiderace.runtime.threads import current

BACKEND = "django.contrib.auth.backends.ModelBackend"


def wait(coroutine_function, *args, **kwargs):
    """Await it from a sync test, in whose thread the database work is done."""
    return async_to_sync(coroutine_function)(*args, **kwargs)


@pytest.fixture(autouse=True)
def quick_passwords(settings):
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture
def user(db):
    return User.objects.create_user("ada", password="lovelace")


@pytest.fixture
def other(db):
    return User.objects.create_user("grace", password="hopper")


@pytest.fixture
def scope(db):
    return {"type": "websocket", "session": SessionStore()}


@pytest.fixture
def signals():
    """The signals that were sent: their name, sender and what they carried."""
    seen = []

    def note_in(sender, **kwargs):
        seen.append(("in", sender, kwargs["request"], kwargs["user"]))

    def note_out(sender, **kwargs):
        seen.append(("out", sender, kwargs["request"], kwargs["user"]))

    user_logged_in.connect(note_in)
    user_logged_out.connect(note_out)
    yield seen
    user_logged_in.disconnect(note_in)
    user_logged_out.disconnect(note_out)


def session_of(user, **data) -> str:
    """Store a session as Django's own log-in leaves it; returns its key."""
    session = SessionStore()
    session[SESSION_KEY] = str(user.pk)
    session[BACKEND_SESSION_KEY] = BACKEND
    session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    session.update(data)
    session.save()
    return session.session_key


def cookie_scope(key: str | None = None, kind="websocket"):
    headers = [(b"cookie", f"sessionid={key}".encode())] if key else []
    return {"type": kind, "path": "/", "headers": headers}


class Recorder:
    def __init__(self):
        self.scope = None

    async def __call__(self, scope, receive, send):
        self.scope = scope


def user_in(application_maker, scope):
    inner = Recorder()
    wait(application_maker(inner), scope, None, None)
    return inner.scope["user"]


# Look-up


def test_a_session_without_a_user_is_anonymous(scope):
    assert wait(get_user, scope) == AnonymousUser()


def test_the_user_of_the_session_is_found(user):
    scope = {"session": SessionStore(session_of(user))}

    assert wait(get_user, scope) == user


def test_without_a_session_the_user_is_not_looked_up(db):
    with pytest.raises(ValueError, match="Cannot find session in scope") as error:
        wait(get_user, {"type": "websocket"})

    assert "wrap your consumer in SessionMiddleware" in str(error.value)


def test_a_session_of_a_removed_backend_is_anonymous(user, settings):
    scope = {"session": SessionStore(session_of(user))}
    settings.AUTHENTICATION_BACKENDS = [
        "django.contrib.auth.backends.AllowAllUsersModelBackend"
    ]

    assert wait(get_user, scope) == AnonymousUser()
    assert SESSION_KEY in scope["session"]


def test_a_deleted_user_is_anonymous(user):
    scope = {"session": SessionStore(session_of(user))}
    user.delete()

    assert wait(get_user, scope) == AnonymousUser()


def test_a_changed_password_empties_the_session(user):
    key = session_of(user)
    user.set_password("other")
    user.save()
    scope = {"session": SessionStore(key)}

    assert wait(get_user, scope) == AnonymousUser()
    assert scope["session"].is_empty()
    assert Session.objects.count() == 0


def test_a_session_without_a_hash_is_emptied(user):
    key = session_of(user, **{HASH_SESSION_KEY: ""})
    scope = {"session": SessionStore(key)}

    assert wait(get_user, scope) == AnonymousUser()
    assert Session.objects.count() == 0


def test_a_hash_of_a_fallback_secret_key_is_accepted(user, settings):
    key = session_of(user)
    settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
    settings.SECRET_KEY = "the new one"
    scope = {"type": "websocket", "session": SessionStore(key)}

    assert wait(get_user, scope) == user


def test_a_websocket_does_not_renew_a_hash_of_a_fallback_key(user, settings):
    key = session_of(user)
    settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
    settings.SECRET_KEY = "the new one"
    scope = {"type": "websocket", "session": SessionStore(key)}

    wait(get_user, scope)

    assert scope["session"].session_key == key
    assert Session.objects.filter(pk=key).exists()


def test_an_http_request_renews_a_hash_of_a_fallback_key(user, settings):
    key = session_of(user)
    settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
    settings.SECRET_KEY = "the new one"
    scope = {"type": "http", "session": SessionStore(key)}

    assert wait(get_user, scope) == user

    assert scope["session"].session_key != key
    assert scope["session"][HASH_SESSION_KEY] == user.get_session_auth_hash()


def test_a_hash_of_an_unknown_key_empties_the_session(user, settings):
    settings.SECRET_KEY_FALLBACKS = ["another one"]
    key = session_of(user, **{HASH_SESSION_KEY: "0" * 64})

    assert wait(get_user, {"session": SessionStore(key)}) == AnonymousUser()
    assert Session.objects.count() == 0


@pytest.mark.parametrize("function", [get_user, login, logout])
def test_the_functions_are_database_calls(function):
    assert isinstance(function, DatabaseSyncToAsync)


# Log-in


def test_a_login_fills_session_and_scope(user, scope, signals):
    wait(login, scope, user)

    assert scope["user"] is user
    assert scope["session"][SESSION_KEY] == str(user.pk)
    assert scope["session"][BACKEND_SESSION_KEY] == BACKEND
    assert scope["session"][HASH_SESSION_KEY] == user.get_session_auth_hash()
    assert signals == [("in", User, None, user)]
    assert wait(get_user, scope) == user


def test_a_user_of_another_kind_needs_no_session_hash(user, scope):
    class Plain:
        id = pk = user.pk
        _meta = user._meta

    plain = Plain()

    # Django's own receiver would update a column that this user does not have.
    user_logged_in.disconnect(dispatch_uid="update_last_login")
    try:
        wait(login, scope, plain)
    finally:
        user_logged_in.connect(update_last_login, dispatch_uid="update_last_login")

    assert scope["user"] is plain
    assert scope["session"][HASH_SESSION_KEY] == ""


def test_a_login_can_be_called_with_keywords(user, scope):
    wait(login, scope=scope, user=user, backend="some.Backend")

    assert scope["session"][BACKEND_SESSION_KEY] == "some.Backend"


def test_a_login_does_not_save_the_session(user, scope):
    wait(login, scope, user)

    stored = SessionStore(scope["session"].session_key)
    assert SESSION_KEY not in stored
    assert scope["session"].modified


def test_a_login_keeps_the_data_of_an_anonymous_session_under_a_new_key(user, scope):
    scope["session"]["basket"] = ["tea"]
    scope["session"].save()
    before = scope["session"].session_key

    wait(login, scope, user)

    assert scope["session"]["basket"] == ["tea"]
    assert scope["session"].session_key != before


def test_a_login_deletes_the_session_data_of_another_user(user, other, scope):
    wait(login, scope, other)
    scope["session"]["secret"] = "hers"

    wait(login, scope, user)

    assert "secret" not in scope["session"]
    assert wait(get_user, scope) == user


def test_a_second_login_of_the_same_user_keeps_the_session(user, scope):
    wait(login, scope, user)
    scope["session"]["secret"] = "mine"
    key = scope["session"].session_key

    wait(login, scope, user)

    assert scope["session"]["secret"] == "mine"
    assert scope["session"].session_key == key


def test_a_login_after_a_password_change_deletes_the_old_session(user, scope):
    wait(login, scope, user)
    scope["session"]["secret"] = "from before"
    user.set_password("other")

    wait(login, scope, user)

    assert "secret" not in scope["session"]


def test_a_login_without_a_user_uses_the_user_in_the_scope(user, scope):
    scope["user"] = user

    wait(login, scope, None)

    assert scope["session"][SESSION_KEY] == str(user.pk)


def test_a_login_without_any_user_is_refused(scope):
    with pytest.raises(ValueError, match="User must be passed as an argument"):
        wait(login, scope, None)


def test_a_login_without_a_session_is_refused(user):
    with pytest.raises(ValueError, match="Cannot find session in scope"):
        wait(login, {}, user)


def test_a_login_uses_the_backend_of_the_user(user, scope, settings):
    settings.AUTHENTICATION_BACKENDS = [BACKEND, "a.b.Second"]
    user.backend = "a.b.Second"

    wait(login, scope, user)

    assert scope["session"][BACKEND_SESSION_KEY] == "a.b.Second"


def test_a_login_with_several_backends_is_refused(user, scope, settings):
    settings.AUTHENTICATION_BACKENDS = [BACKEND, "a.b.Second"]

    with pytest.raises(ValueError, match="multiple authentication backends"):
        wait(login, scope, user)


def test_the_error_of_a_login_without_backends_names_the_setting(user, scope, settings):
    settings.AUTHENTICATION_BACKENDS = []

    with pytest.raises(ImproperlyConfigured, match="AUTHENTICATION_BACKENDS"):
        wait(login, scope, user)


# Log-out


def test_a_logout_empties_session_and_scope(user, scope, signals):
    wait(login, scope, user)
    signals.clear()

    wait(logout, scope)

    assert scope["user"] == AnonymousUser()
    assert scope["session"].is_empty()
    assert signals == [("out", User, None, user)]
    assert wait(get_user, scope) == AnonymousUser()


def test_the_logout_of_an_anonymous_visitor_sends_no_signal(scope, signals):
    scope["user"] = AnonymousUser()

    wait(logout, scope)

    assert signals == []


def test_a_logout_without_a_user_in_the_scope_adds_none(scope, signals):
    wait(logout, scope)

    assert "user" not in scope
    assert signals == []


def test_a_logout_without_a_session_is_refused(db):
    with pytest.raises(ValueError, match=r"^Login cannot find session in scope"):
        wait(logout, {})


# Middleware


def test_the_stack_finds_the_user_of_the_cookie(user):
    found = user_in(AuthMiddlewareStack, cookie_scope(session_of(user)))

    assert found == user
    assert found.username == "ada"


def test_a_visitor_without_a_cookie_is_anonymous(db):
    found = user_in(AuthMiddlewareStack, cookie_scope())

    assert found.is_anonymous
    assert not found.is_authenticated


def test_the_stack_adds_cookies_session_and_user(db):
    inner = Recorder()
    scope = cookie_scope()

    wait(AuthMiddlewareStack(inner), scope, None, None)

    added = set(inner.scope) - set(scope)
    assert added == {"cookies", "session", "user"}


def test_the_stack_is_three_middlewares_by_their_inner():
    inner = Recorder()
    stack = AuthMiddlewareStack(inner)

    assert isinstance(stack, CookieMiddleware)
    assert isinstance(stack.inner, SessionMiddleware)
    assert isinstance(stack.inner.inner, AuthMiddleware)
    assert stack.inner.inner.inner is inner


def test_auth_middleware_requires_session_middleware():
    with pytest.raises(ValueError, match="SessionMiddleware must be above it"):
        wait(AuthMiddleware(Recorder()), {"type": "websocket"}, None, None)


def test_a_lazy_session_of_outer_middleware_is_read(user):
    scope = cookie_scope()
    key = session_of(user)
    scope["session"] = SimpleLazyObject(lambda: SessionStore(key))

    assert user_in(AuthMiddleware, scope) == user


def token_middleware(user):
    class TokenMiddleware(BaseMiddleware):
        async def __call__(self, scope, receive, send):
            scope["user"] = user
            return await super().__call__(scope, receive, send)

    return lambda inner: TokenMiddleware(AuthMiddlewareStack(inner))


def test_a_user_set_by_outer_middleware_is_kept(user, other):
    found = user_in(token_middleware(user), cookie_scope(session_of(other)))

    assert found is user


def test_a_user_set_by_outer_middleware_needs_no_query(
    user, other, django_assert_num_queries
):
    scope = cookie_scope(session_of(other))

    with django_assert_num_queries(0):
        user_in(token_middleware(user), scope)


def test_a_lazy_user_is_not_evaluated(user, other):
    lazy = SimpleLazyObject(lambda: user)

    found = user_in(token_middleware(lazy), cookie_scope(session_of(other)))

    assert found is lazy
    assert found.username == "ada"


def test_an_empty_lazy_user_is_filled(user):
    found = user_in(token_middleware(LazyObject()), cookie_scope(session_of(user)))

    assert found == user


def test_nested_stacks_look_the_user_up_once(user, django_assert_num_queries):
    scope = cookie_scope(session_of(user))

    with django_assert_num_queries(2):
        found = user_in(
            lambda inner: AuthMiddlewareStack(AuthMiddlewareStack(inner)), scope
        )

    assert found == user


def test_a_subclass_can_override_get_user(user):
    class Header(AuthMiddleware):
        async def resolve_scope(self, scope):
            scope["user"]._wrapped = user

    def stack(inner):
        return CookieMiddleware(SessionMiddleware(Header(inner)))

    assert user_in(stack, cookie_scope()) == user


def test_reading_the_user_before_the_look_up_is_an_error():
    with pytest.raises(ValueError, match="before it is ready"):
        _ = UserLazyObject().username


def test_the_names_that_applications_import_exist():
    assert auth.database_sync_to_async is DatabaseSyncToAsync
    assert auth.BaseMiddleware is BaseMiddleware
    assert callable(auth._get_user_session_key)


@pytest.mark.django_db(transaction=True)
async def test_look_ups_of_different_sockets_run_concurrently(monkeypatch):
    # Every look-up waits for the other one: in one thread they would never meet.
    meeting = threading.Barrier(2, timeout=10)

    def session_key(session):
        meeting.wait()
        raise KeyError

    monkeypatch.setattr(auth, "_get_user_session_key", session_key)

    async def inner(scope, receive, send):
        return scope["user"].is_anonymous

    served = [AuthMiddlewareStack(inner)(cookie_scope(), None, None) for _ in range(2)]

    assert await asyncio.gather(*served) == [True, True]


async def test_a_socket_holds_no_thread_after_the_look_up(monkeypatch):
    monkeypatch.setattr(auth, "_get_user_session_key", lambda session: {}["nobody"])
    used = []

    async def inner(scope, receive, send):
        used.append(current().used)

    await AuthMiddlewareStack(inner)(cookie_scope(), None, None)

    assert used == [False]
