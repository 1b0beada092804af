"""Permissions: built-in ones, combinations, and those of Django REST Framework."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import AnonymousUser, Permission, User
from django.core.exceptions import PermissionDenied

from tiderace.topics.permissions import (
    Action,
    AllowAny,
    BasePermission,
    HasPerm,
    IsAdminUser,
    IsAuthenticated,
    IsStaff,
    allowed,
)

ANYBODY = AnonymousUser()
ADA = User(pk=1, username="ada")
STAFF = User(pk=2, username="grace", is_staff=True)
SCOPE = {"type": "websocket", "path": "/connection/websocket", "headers": []}


class Never(BasePermission):
    """Refuses, as the base class does."""


class Broken(BasePermission):
    async def has_permission(self, user, topic, action):
        raise RuntimeError("broken")


class MustNotBeAsked(BasePermission):
    async def has_permission(self, user, topic, action):
        raise AssertionError("asked")


class Topic:
    """A topic as permissions get it."""

    topic = "room:tea"
    kwargs = {"name": "tea"}
    permission_classes: tuple = ()


def topic(*classes, **methods):
    """Return a topic with these permissions and methods."""
    return type("Room", (Topic,), {"permission_classes": classes, **methods})()


async def may(user, *classes, action="subscribe", scope=SCOPE, **methods):
    return await allowed(topic(*classes, **methods), user, action, scope)


def yes(self, user):
    return True


def no(self, user):
    return False


# Built-in


@pytest.mark.parametrize(
    ("rule", "lets"),
    [
        (AllowAny, [ANYBODY, ADA, STAFF]),
        (IsAuthenticated, [ADA, STAFF]),
        (IsStaff, [STAFF]),
        (IsAdminUser, [STAFF]),
        (BasePermission, []),
    ],
)
async def test_a_builtin_permission_allows_its_users(rule, lets):
    people = [ANYBODY, ADA, STAFF]

    assert [user for user in people if await may(user, rule)] == lets


def test_has_perm_uses_the_permissions_of_django(db):
    with_it = User.objects.create_user("ada")
    with_it.user_permissions.add(Permission.objects.get(codename="view_user"))
    without = User.objects.create_user("grace")
    wait = async_to_sync(may)

    assert wait(with_it, HasPerm("auth.view_user"))
    assert not wait(with_it, HasPerm("auth.view_user", "auth.add_user"))
    assert not wait(without, HasPerm("auth.view_user"))
    assert not wait(ANYBODY, HasPerm("auth.view_user"))


def test_has_perm_requires_an_app_label():
    with pytest.raises(ValueError, match=r"write 'app\.codename'"):
        HasPerm("view_room")


async def test_without_a_user_there_is_no_permission():
    assert not await may(None, IsAuthenticated)
    assert not await may(None, IsStaff)
    assert not await may(None, HasPerm("auth.view_user"))


# Default deny


async def test_a_topic_without_any_rule_is_closed():
    for action in Action:
        assert not await may(STAFF, action=action)
        assert not await may(STAFF, action=action, on_publish=yes, can_publish=yes)


async def test_a_topic_is_opened_by_its_own_method_alone():
    assert await may(ANYBODY, can_subscribe=yes)
    assert await may(ANYBODY, can_subscribe=yes, action="history")
    assert not await may(STAFF, can_subscribe=no)


async def test_permission_classes_and_method_must_all_allow():
    assert await may(ADA, IsAuthenticated, AllowAny, can_subscribe=yes)
    assert not await may(ADA, IsAuthenticated, Never, can_subscribe=yes)
    assert not await may(ANYBODY, IsAuthenticated, can_subscribe=yes)
    assert not await may(ADA, IsAuthenticated, can_subscribe=no)


@pytest.mark.parametrize("value", [True, False])
async def test_a_publish_method_that_cannot_be_called_opens_no_topic(value):
    assert not await may(ADA, AllowAny, action="publish", can_publish=value)


async def test_a_topic_accepts_publications_only_with_a_publish_method():
    assert not await may(ADA, AllowAny, action="publish")
    assert await may(ADA, AllowAny, action="publish", can_publish=yes)
    assert await may(ADA, AllowAny, action="publish", on_publish=yes)
    assert not await may(
        ADA, AllowAny, action="publish", on_publish=yes, can_publish=no
    )


@pytest.mark.parametrize(
    ("action", "method"),
    [
        ("subscribe", "can_subscribe"),
        ("publish", "can_publish"),
        ("presence", "can_see_presence"),
        ("history", "can_read_history"),
    ],
)
async def test_each_action_calls_its_own_method(action, method):
    others = {"can_subscribe", "can_publish", "can_see_presence", "can_read_history"}

    assert await may(
        ADA, AllowAny, action=action, **{**dict.fromkeys(others, no), method: yes}
    )
    assert not await may(
        ADA, AllowAny, action=action, **{**dict.fromkeys(others, yes), method: no}
    )


async def test_another_action_is_refused():
    with pytest.raises(ValueError, match="delete"):
        await may(ADA, AllowAny, action="delete")


async def test_an_invalid_permission_is_refused():
    for rule in (object(), SimpleNamespace(), int):
        with pytest.raises(TypeError, match="is no permission"):
            await may(ADA, rule)


async def test_an_exception_in_a_permission_propagates():
    for rule in (Broken, ~Broken, Broken | AllowAny):
        with pytest.raises(RuntimeError, match="broken"):
            await may(ADA, rule)


async def test_permission_denied_counts_as_false():
    class Denies(BasePermission):
        def has_permission(self, user, topic, action):
            raise PermissionDenied

    def denies(self, user):
        raise PermissionDenied

    assert not await may(ADA, Denies)
    assert await may(ADA, Denies | AllowAny)
    assert not await may(ADA, can_subscribe=denies)


@pytest.mark.parametrize("answer", [None, 0, "", [], False])
async def test_none_counts_as_false(answer):
    assert not await may(ADA, can_subscribe=lambda self, user: answer)


# Combinations


@pytest.mark.parametrize(
    ("rule", "lets"),
    [
        (IsAuthenticated & IsStaff, [STAFF]),
        (IsStaff | AllowAny, [ANYBODY, ADA, STAFF]),
        (IsAuthenticated & ~IsStaff, [ADA]),
        (~IsAuthenticated, [ANYBODY]),
        (~(IsStaff | ~IsAuthenticated), [ADA]),
        (IsAuthenticated() & IsStaff(), [STAFF]),
        (IsStaff() | ~IsAuthenticated(), [ANYBODY, STAFF]),
        (IsAuthenticated & IsStaff | ~IsAuthenticated, [ANYBODY, STAFF]),
    ],
    ids=range(8),
)
async def test_permissions_combine(rule, lets):
    people = [ANYBODY, ADA, STAFF]

    assert [user for user in people if await may(user, rule)] == lets


async def test_the_right_side_is_not_evaluated_when_the_left_decides():
    assert not await may(ADA, Never & MustNotBeAsked)
    assert await may(ADA, AllowAny | MustNotBeAsked)
    assert not await may(ADA, Never, MustNotBeAsked)


# How they are called


async def test_a_plain_method_runs_in_a_thread_and_a_coroutine_on_the_loop():
    seen = []

    class Plain(BasePermission):
        def has_permission(self, user, topic, action):
            seen.append(threading.current_thread())
            return True

    class Async(BasePermission):
        async def has_permission(self, user, topic, action):
            seen.append(threading.current_thread())
            return True

    def plain(self, user):
        seen.append(threading.current_thread())
        return True

    assert await may(ADA, Plain, Async, can_subscribe=plain)

    here = threading.current_thread()
    assert [thread is here for thread in seen] == [False, True, False]


async def test_a_plain_method_may_return_something_to_await():
    async def later():
        return False

    assert not await may(ADA, can_subscribe=lambda self, user: later())


async def test_a_permission_gets_the_user_the_topic_and_the_action():
    seen = []

    class Spy(BasePermission):
        async def has_permission(self, user, topic, action):
            seen.append((user, topic.topic, topic.kwargs, action))
            return True

    await may(ADA, Spy, action="history")

    assert seen == [(ADA, "room:tea", {"name": "tea"}, "history")]


# Django REST Framework


@pytest.fixture
def rest():
    from rest_framework import permissions

    return permissions


async def test_permissions_of_django_rest_framework_work_unchanged(rest):
    assert await may(ADA, rest.IsAuthenticated)
    assert not await may(ANYBODY, rest.IsAuthenticated)
    assert not await may(ADA, rest.IsAdminUser)
    assert await may(STAFF, rest.IsAdminUser())
    assert await may(ANYBODY, rest.AllowAny)


async def test_publishing_is_a_post_and_all_else_a_get(rest):
    rule = rest.IsAuthenticatedOrReadOnly

    for action in ("subscribe", "presence", "history"):
        assert await may(ANYBODY, rule, action=action)
    assert not await may(ANYBODY, rule, action="publish", can_publish=yes)
    assert await may(ADA, rule, action="publish", can_publish=yes)


async def test_combinations_of_django_rest_framework_work_with_ours(rest):
    assert await may(ADA, rest.IsAuthenticated & ~rest.IsAdminUser)
    assert not await may(STAFF, rest.IsAuthenticated & ~rest.IsAdminUser)
    assert await may(STAFF, IsAuthenticated & rest.IsAdminUser)
    assert not await may(ADA, IsAuthenticated & rest.IsAdminUser)
    assert not await may(ADA, ~IsStaff & rest.IsAdminUser)
    assert await may(ANYBODY, IsAuthenticated() | rest.AllowAny)


async def test_a_permission_of_django_rest_framework_works_on_the_left(rest):
    assert await may(STAFF, rest.IsAdminUser & IsAuthenticated)
    assert not await may(ADA, rest.IsAdminUser & IsAuthenticated)
    assert await may(ADA, ~(rest.IsAdminUser & IsAuthenticated) & IsAuthenticated)
    assert await may(ANYBODY, rest.IsAdminUser | ~IsAuthenticated)
    assert not await may(ADA, rest.IsAdminUser | ~IsAuthenticated)


async def test_a_plain_class_with_the_interface_of_a_permission_works():
    class Foreign:
        def has_permission(self, request, view):
            return request.user.is_authenticated

    assert await may(ADA, Foreign, Foreign())
    assert await may(STAFF, Foreign & IsStaff)
    assert not await may(ADA, Foreign & IsStaff)
    assert await may(ADA, Foreign | IsStaff)
    assert not await may(ADA, Foreign() & IsStaff())
    assert await may(ADA, Foreign() | IsStaff())


async def test_permissions_of_django_rest_framework_get_the_handshake(rest):
    seen = {}

    class Spy(rest.BasePermission):
        def has_permission(self, request, view):
            seen.update(
                user=request.user,
                auth=request.auth,
                method=request.method,
                path=request.path,
                address=request.META["REMOTE_ADDR"],
                agent=request.headers["User-Agent"],
                meta=request.META["HTTP_X_TWICE"],
                query=request.query_params["room"],
                get=request.GET["room"],
                cookie=request.COOKIES["a"],
                session=request.session,
                kwargs=view.kwargs,
                action=view.action,
                topic=view.topic.topic,
                on_the_loop=threading.current_thread() is here,
            )
            return True

    here = threading.current_thread()
    scope = {
        **SCOPE,
        "client": ("10.0.0.1", 5000),
        "server": ("tide", 80),
        "query_string": b"room=tea",
        "headers": [(b"user-agent", b"x"), (b"x-twice", b"1"), (b"x-twice", b"2")],
        "cookies": {"a": "b"},
        "auth": "token",
    }

    assert await may(ADA, Spy, action="publish", can_publish=yes, scope=scope)

    assert seen == {
        "user": ADA,
        "auth": "token",
        "method": "POST",
        "path": "/connection/websocket",
        "address": "10.0.0.1",
        "agent": "x",
        "meta": "1,2",
        "query": "tea",
        "get": "tea",
        "cookie": "b",
        "session": None,
        "kwargs": {"name": "tea"},
        "action": "publish",
        "topic": "room:tea",
        "on_the_loop": False,
    }


async def test_exceptions_of_django_rest_framework_count_as_false(rest):
    from rest_framework import exceptions

    for error in (exceptions.PermissionDenied, exceptions.NotAuthenticated):

        class Raises(rest.BasePermission):
            def has_permission(self, request, view, error=error):
                raise error

        assert not await may(ADA, Raises)
        assert await may(ADA, AllowAny & ~Never & AllowAny | Raises)
        assert not await may(ADA, IsStaff | Raises)


async def test_other_exceptions_of_django_rest_framework_propagate(rest):
    from rest_framework import exceptions

    class Raises(rest.BasePermission):
        def has_permission(self, request, view):
            raise exceptions.APIException

    with pytest.raises(exceptions.APIException):
        await may(ADA, Raises)


@pytest.mark.parametrize(
    ("headers", "user"),
    [
        ([(b"x_remote_user", b"admin")], None),
        ([(b"x_remote_user", b"admin"), (b"x-remote-user", b"ada")], "ada"),
    ],
)
def test_a_header_with_an_underscore_is_left_out_of_meta(headers, user):
    from tiderace.topics.handshake_request import HandshakeRequest

    request = HandshakeRequest({"type": "http", "headers": headers}, ANYBODY, "GET")

    assert request.META.get("HTTP_X_REMOTE_USER") == user


def test_a_minimal_handshake_is_a_valid_request():
    from tiderace.topics.handshake_request import HandshakeRequest

    request = HandshakeRequest({"type": "websocket"}, ANYBODY, "GET")

    assert request.META["REQUEST_METHOD"] == "GET"
    assert request.META["QUERY_STRING"] == request.META["PATH_INFO"] == ""
    assert (dict(request.headers), request.COOKIES, request.session) == ({}, {}, None)
