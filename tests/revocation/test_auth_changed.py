"""Sockets of Django's users and sessions when a log-in or a permission ends."""

from __future__ import annotations

import logging

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth import (
    SESSION_KEY,
    alogout,
    update_session_auth_hash,
)
from django.contrib.auth import logout as django_logout
from django.contrib.auth.models import AnonymousUser, Group, Permission, User
from django.contrib.sessions.backends.db import SessionStore
from django.db import transaction
from django.db.models import UUIDField
from django.http import HttpRequest

from support.clients.asgi_client import Client
from support.sessions import session_of
from support.waiting import settle, until
from tiderace import cluster
from tiderace.auth import AuthMiddlewareStack, logout
from tiderace.exceptions import TokenInvalid
from tiderace.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer
from tiderace.layers import InMemoryChannelLayer, get_channel_layer
from tiderace.layers.names import CLUSTER_GROUP
from tiderace.revocation import auth_changed, signals
from tiderace.topics.identity import identity_of
from tiderace.topics.tokens import connection_token


class Quiet(AsyncWebsocketConsumer):
    """Accepts, and has no handler for changes."""

    async def connect(self):
        await self.accept()


class Reporting(AsyncWebsocketConsumer):
    """Sends the reason, and whether the user is of the staff."""

    async def connect(self):
        await self.accept()

    async def auth_changed(self, event):
        user = self.scope["user"]
        await self.send(f"{event['reason']} {user.is_staff}")


class Sync(WebsocketConsumer):
    """A sync consumer without a handler."""


@pytest.fixture
def revalidate(settings):
    settings.TIDERACE = {"REVALIDATE": True, "REVALIDATE_INTERVAL": 3600}


@pytest.fixture(autouse=True)
async def no_watcher_is_left():
    yield
    await auth_changed.close()


def cookies(key):
    return [(b"cookie", f"sessionid={key}".encode())]


async def socket_of(user, consumer=Quiet, **data):
    """An open socket of a logged-in user, and the key of its session."""
    key = await sync_to_async(session_of)(user, **data)
    app = AuthMiddlewareStack(consumer.as_asgi())
    client = await Client(app, headers=cookies(key)).open()
    # Looked up once, so that signals alone cause what follows.
    watcher = auth_changed.current_watcher()
    await until(lambda: not len(watcher) or cluster.current().is_open)
    await until(lambda: not watcher.busy)
    return client, key


async def closed(client):
    """The code and reason with which a socket was closed by its consumer."""
    event = await client.until("websocket.close")
    await client.leave(event["code"])
    return event["code"], event.get("reason")


async def change(function, *args, **kwargs):
    return await sync_to_async(function)(*args, **kwargs)


def request_of(user, key):
    request = HttpRequest()
    request.user = user
    request.session = SessionStore(key)
    return request


pytest_db = pytest.mark.django_db(transaction=True)


@pytest_db
async def test_logging_out_closes_the_sockets_of_that_session(user, revalidate):
    mine, key = await socket_of(user)
    phone, _ = await socket_of(user)

    await change(django_logout, request_of(user, key))

    assert await closed(mine) == (4401, "logged_out")
    assert phone.kinds == ["websocket.accept"]
    await phone.leave()


@pytest_db
async def test_logging_out_asynchronously_does_so_too(user, revalidate):
    client, key = await socket_of(user)

    await alogout(request_of(user, key))

    assert await closed(client) == (4401, "logged_out")


@pytest_db
async def test_logging_out_through_a_scope_does_so_too(user, revalidate):
    client, key = await socket_of(user)

    await logout({"type": "websocket", "session": SessionStore(key), "user": user})

    assert await closed(client) == (4401, "logged_out")


@pytest_db
async def test_a_new_password_closes_the_users_sockets(user, revalidate):
    client, _ = await socket_of(user)

    def set_password():
        user.set_password("new")
        user.save()

    await change(set_password)

    assert await closed(client) == (4401, "password_changed")


@pytest_db
async def test_a_new_password_closes_the_sockets_of_the_session_that_changed_it_too(
    user, revalidate
):
    """Its session goes on under another key, with which the page comes back."""
    client, key = await socket_of(user)

    def change_password():
        user.set_password("new")
        user.save()
        update_session_auth_hash(request_of(user, key), user)

    await change(change_password)

    assert await closed(client) == (4401, "password_changed")


@pytest_db
async def test_deactivation_closes_the_users_sockets(user, revalidate):
    client, _ = await socket_of(user)

    def deactivate():
        user.is_active = False
        user.save(update_fields=["is_active"])

    await change(deactivate)

    assert await closed(client) == (4401, "deactivated")


@pytest_db
async def test_deletion_closes_the_users_sockets(user, revalidate):
    client, _ = await socket_of(user)

    await change(User.objects.all().delete)

    assert await closed(client) == (4401, "deleted")


def a_group():
    return Group.objects.get_or_create(name="editors")[0]


def with_group(user):
    user.groups.add(a_group())
    a_group().permissions.add(Permission.objects.first())


RIGHTS = {
    "a group": (lambda user: None, lambda user: user.groups.add(a_group())),
    "no group": (with_group, lambda user: user.groups.clear()),
    "from the group": (lambda user: None, lambda user: a_group().user_set.add(user)),
    "an emptied group": (with_group, lambda user: a_group().user_set.clear()),
    "a deleted group": (with_group, lambda user: a_group().delete()),
    "a group's permissions": (
        with_group,
        lambda user: a_group().permissions.add(Permission.objects.last()),
    ),
    "a permission": (
        lambda user: None,
        lambda user: user.user_permissions.add(Permission.objects.first()),
    ),
    "staff": (
        lambda user: None,
        lambda user: User(
            pk=user.pk, username="ada", password=user.password, is_staff=True
        ).save(),
    ),
}


@pytest.mark.parametrize("which", RIGHTS)
@pytest_db
async def test_changed_permissions_close_the_users_sockets_with_a_code_to_reconnect(
    user, revalidate, which
):
    before, after = RIGHTS[which]
    await change(before, user)
    client, _ = await socket_of(user)

    await change(after, user)

    assert await closed(client) == (1012, "permissions_changed")


@pytest_db
async def test_a_handler_decides_and_reads_the_present_user(user, revalidate):
    client, key = await socket_of(user, Reporting)

    def promote():
        user.is_staff = True
        user.save()

    await change(promote)
    await client.until("websocket.send")
    await change(django_logout, request_of(user, key))
    await client.until("websocket.send", 2)

    assert client.texts == ["permissions_changed True", "logged_out True"]
    await client.leave()


@pytest_db
async def test_a_sync_consumer_is_closed_too(user, revalidate):
    client, key = await socket_of(user, Sync)

    await change(django_logout, request_of(user, key))

    assert await closed(client) == (4401, "logged_out")


@pytest_db
async def test_a_change_that_is_rolled_back_is_not_announced(user, revalidate):
    client, _ = await socket_of(user)
    announced = []
    layer = get_channel_layer()
    channel = await layer.new_channel()
    await layer.group_add(CLUSTER_GROUP, channel)

    def fail():
        with transaction.atomic():
            user.is_active = False
            user.save()
            transaction.set_rollback(True)

    def succeed():
        with transaction.atomic():
            user.first_name = "Ada"
            user.is_active = True
            user.save()

    await change(fail)
    await change(succeed)
    announced.append(await layer.receive(channel))

    assert layer._local.mailboxes[channel].empty()
    assert client.kinds == ["websocket.accept"]
    await client.leave()


@pytest_db
async def test_a_change_without_influence_on_permissions_is_not_announced(
    user, revalidate
):
    layer = get_channel_layer()
    channel = await layer.new_channel()
    await layer.group_add(CLUSTER_GROUP, channel)

    def log_in():
        user.save(update_fields=["last_login"])
        User.objects.create_user("grace")
        user.save()

    await change(log_in)

    assert (await layer.receive(channel))["payload"]["users"] == [str(user.pk)]
    assert layer._local.mailboxes[channel].empty()


@pytest_db
async def test_a_group_that_the_user_has_already_is_not_announced(user, revalidate):
    await change(with_group, user)
    layer = get_channel_layer()
    channel = await layer.new_channel()
    await layer.group_add(CLUSTER_GROUP, channel)

    await change(user.groups.add, await change(a_group))

    assert layer._local.mailboxes[channel].empty()


@pytest_db
async def test_a_consumer_that_saves_its_user_when_it_connects_stays_open(
    user, revalidate
):
    class Saves(AsyncWebsocketConsumer):
        async def connect(self):
            await self.scope["user"].asave()
            await self.accept()

    client, _ = await socket_of(user, Saves)

    assert client.kinds == ["websocket.accept"]
    await client.leave()


@pytest_db
async def test_a_change_without_a_signal_can_be_announced(user, revalidate):
    client, _ = await socket_of(user)

    def update():
        User.objects.filter(pk=user.pk).update(is_active=False)
        signals.announce(users=(user.pk,))

    await change(update)

    assert await closed(client) == (4401, "deactivated")


@pytest_db
async def test_without_the_setting_a_socket_keeps_its_user(user):
    client, key = await socket_of(user)

    await change(django_logout, request_of(user, key))
    await change(User.objects.all().delete)
    client.text("still there?")
    await settle()

    assert client.kinds == ["websocket.accept"]
    assert len(auth_changed.current_watcher()) == 0
    await client.leave()


@pytest_db
async def test_a_visitor_without_an_account_is_not_watched(revalidate):
    client = await Client(AuthMiddlewareStack(Quiet.as_asgi())).open()

    assert len(auth_changed.current_watcher()) == 0
    await client.leave()


@pytest_db
async def test_a_closed_socket_is_not_watched_any_more(user, revalidate):
    client, _ = await socket_of(user)
    assert len(auth_changed.current_watcher()) == 1

    await client.leave()

    assert len(auth_changed.current_watcher()) == 0


@pytest_db
async def test_the_session_of_another_user_does_not_count_for_a_token(user, revalidate):
    """An outer middleware has named the user; the cookie's session is another matter."""
    other = await change(User.objects.create_user, "grace")
    key = await change(session_of, other)
    app = AuthMiddlewareStack(Quiet.as_asgi())
    client = await Client(app, headers=cookies(key), user=user).open()

    await change(django_logout, request_of(other, key))
    await change(user.save)
    await until(lambda: not auth_changed.current_watcher().busy)

    assert client.kinds == ["websocket.accept"]
    await client.leave()


@pytest_db
async def test_the_identity_of_a_topic_client_has_the_session_of_its_user(user):
    other = await change(User.objects.create_user, "grace")
    seen = []

    async def app(scope, receive, send):
        seen.append(await identity_of(scope, ""))

    for owner, outer in ((user, {}), (other, {"user": user})):
        key = await change(session_of, owner)
        await Client(AuthMiddlewareStack(app), headers=cookies(key), **outer).end()

    assert [identity.user_id for identity in seen] == [str(user.pk)] * 2
    assert [bool(identity.session_key) for identity in seen] == [True, False]


@pytest_db
async def test_a_valid_token_with_an_id_that_is_no_key_is_refused(monkeypatch):
    """A key field raises ValidationError for such text."""
    token = connection_token(User(pk="no-uuid"))
    monkeypatch.setattr(User._meta, "pk", UUIDField())

    with pytest.raises(TokenInvalid, match="no active user"):
        await identity_of({}, token)


@pytest_db
async def test_an_announcement_that_cannot_be_sent_does_not_fail_the_save(
    user, revalidate, monkeypatch, caplog
):
    async def fail(self, group, message):
        raise ConnectionError("away")

    monkeypatch.setattr(InMemoryChannelLayer, "group_send", fail)

    await change(user.save)
    signals.announce(users=(user.pk,))
    await settle()

    messages = [r.message for r in caplog.records if r.levelno == logging.ERROR]
    assert len(messages) == 2
    assert messages[0].startswith("could not announce a change")


@pytest_db
async def test_without_a_layer_the_sockets_of_this_process_are_closed(
    user, revalidate, settings
):
    settings.CHANNEL_LAYERS = {}
    client, key = await socket_of(user)

    await change(django_logout, request_of(user, key))

    assert await closed(client) == (4401, "logged_out")


async def test_changes_are_announced_for_topics_without_the_setting(monkeypatch):
    monkeypatch.setattr(signals, "_required", False)
    sent = []

    async def send(message):
        sent.append(message["users"])

    monkeypatch.setattr(signals, "_send", send)

    signals.announce(users=(1,))
    signals.require()
    signals.announce(users=(2,))
    await settle()

    assert sent == [["2"]]


LOADED = {SESSION_KEY: "7"}


@pytest.mark.parametrize(
    ("session", "user", "key"),
    [
        (LOADED, User(pk=7), "the-session-key"),
        (LOADED, User(pk=8), ""),
        (LOADED, User(), ""),
        (LOADED, AnonymousUser(), ""),
        (LOADED, object(), ""),
        (LOADED, None, ""),
        ({}, User(pk=7), ""),
        (None, User(pk=7), ""),
    ],
)
def test_a_session_counts_for_its_own_user_once_it_was_read(session, user, key):
    store = SessionStore("the-session-key")
    if session is not None:
        store._session_cache = session

    assert auth_changed.session_key_of({"session": store, "user": user}) == key
    assert auth_changed.session_key_of({"user": user}) == ""


def test_no_group_signal_is_connected_for_users_without_groups(monkeypatch):
    monkeypatch.setattr(signals, "_relation", lambda model, name: None)
    monkeypatch.setattr(
        signals.m2m_changed, "connect", lambda *a, **k: pytest.fail("connected")
    )

    signals.connect_signals()


def test_no_signal_is_connected_without_django_contrib_auth(settings, monkeypatch):
    monkeypatch.setattr(signals.apps, "is_installed", lambda name: False)
    monkeypatch.setattr(
        signals.user_logged_out,
        "connect",
        lambda *a, **k: pytest.fail("connected"),
    )

    signals.connect_signals()
