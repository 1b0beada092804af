"""Log-outs, new passwords, lost rights: who is connected learns of them, and of nothing else."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth import (
    BACKEND_SESSION_KEY,
    HASH_SESSION_KEY,
    SESSION_KEY,
    alogout,
    update_session_auth_hash,
)
from django.contrib.auth import logout as django_logout
from django.contrib.auth.models import AnonymousUser, Group, Permission, User
from django.contrib.sessions.backends.db import SessionStore
from django.contrib.sessions.models import Session
from django.db import transaction
from django.db.models import UUIDField
from django.http import HttpRequest
from django.utils import timezone
from django.utils.functional import SimpleLazyObject

from support.asgi_client import Client
from support.waiting import settle, until
from tiderace import cluster
from tiderace.auth import AuthMiddlewareStack, logout
from tiderace.cluster import Cluster
from tiderace.exceptions import TokenInvalid
from tiderace.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer
from tiderace.layers import InMemoryChannelLayer, get_channel_layer
from tiderace.layers.names import CLUSTER_GROUP
from tiderace.revocation import signals
from tiderace.revocation.account_state import (
    AccountState,
    Found,
    Reason,
    look_up,
    session_reference,
)
from tiderace.revocation.watcher import RevocationWatcher, announcement
from tiderace.topics.identity import identity_of
from tiderace.topics.tokens import connection_token

BACKEND = "django.contrib.auth.backends.ModelBackend"


@pytest.fixture(autouse=True)
def quick_passwords(settings):
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture
def user(db):
    return User.objects.create_user("ada", password="lovelace")


def session_of(user, **data) -> str:
    """Store a session as Django's own log-in leaves it; returns its key."""
    session = SessionStore()
    session[SESSION_KEY] = str(user.pk)
    session[BACKEND_SESSION_KEY] = BACKEND
    session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    session.update(data)
    session.save()
    return session.session_key


# What has changed


WAS = AccountState("hash", True, (False, False), b"rights")


@pytest.mark.parametrize(
    ("now", "reason"),
    [
        (WAS, None),
        (None, Reason.DELETED),
        (AccountState("hash", False, (False, False), b"rights"), Reason.DEACTIVATED),
        (
            AccountState("other", True, (False, False), b"rights"),
            Reason.PASSWORD_CHANGED,
        ),
        (
            AccountState("hash", True, (True, False), b"rights"),
            Reason.PERMISSIONS_CHANGED,
        ),
        (
            AccountState("hash", True, (False, True), b"rights"),
            Reason.PERMISSIONS_CHANGED,
        ),
        (
            AccountState("hash", True, (False, False), b"other"),
            Reason.PERMISSIONS_CHANGED,
        ),
        (AccountState("other", False, (True, True), b"other"), Reason.DEACTIVATED),
        (AccountState("other", True, (True, True), b"other"), Reason.PASSWORD_CHANGED),
    ],
)
def test_the_gravest_change_is_the_reason(now, reason):
    assert WAS.change_to(now) is reason


def test_rights_that_were_never_looked_up_have_not_changed():
    assert AccountState("hash", True, (False, False)).change_to(WAS) is None


def test_who_was_inactive_when_let_in_has_not_been_deactivated():
    inactive = AccountState("hash", False, (False, False))

    assert inactive.change_to(inactive) is None


def test_only_changed_permissions_leave_the_connection_its_owner():
    assert [reason for reason in Reason if not reason.final] == [
        Reason.PERMISSIONS_CHANGED
    ]


# The look-up


def standing(user):
    return look_up([str(user.pk)], []).users[str(user.pk)][1]


def test_users_are_looked_up_together(db, django_assert_num_queries):
    users = [User.objects.create_user(f"user{number}") for number in range(20)]
    group = Group.objects.create(name="staff")
    for each in users[::2]:
        each.groups.add(group)

    with django_assert_num_queries(4):
        found = look_up([str(each.pk) for each in users] + ["999999"], [])

    assert found.users.keys() == {str(each.pk) for each in users}


def test_what_gives_rights_changes_the_standing(user):
    group = Group.objects.create(name="staff")
    seen = [standing(user)]
    for change in (
        lambda: user.user_permissions.add(Permission.objects.first()),
        lambda: user.groups.add(group),
        lambda: group.permissions.add(Permission.objects.last()),
        lambda: group.permissions.clear(),
        lambda: User.objects.update(is_staff=True),
    ):
        change()
        seen.append(standing(user))

    reasons = [a.change_to(b) for a, b in itertools.pairwise(seen)]
    assert reasons == [Reason.PERMISSIONS_CHANGED] * 5
    assert seen[4].rights == seen[2].rights


def test_what_gives_no_rights_changes_nothing(user):
    before = standing(user)
    User.objects.update(first_name="Ada", last_login=timezone.now())
    Group.objects.create(name="others").permissions.add(Permission.objects.first())

    assert before.change_to(standing(user)) is None


def test_a_user_model_without_permissions_is_looked_up(user, monkeypatch):
    from django.core.exceptions import FieldDoesNotExist

    known = User._meta.get_field

    def without_rights(name):
        if name in ("groups", "user_permissions"):
            raise FieldDoesNotExist(name)
        return known(name)

    monkeypatch.setattr(User._meta, "get_field", without_rights)

    assert standing(user).active


def test_sessions_of_the_database_are_looked_up_with_their_ends(
    user, django_assert_num_queries
):
    keys = [session_of(user) for _ in range(3)]
    ends = timezone.now() + timezone.timedelta(seconds=60)
    Session.objects.filter(pk=keys[0]).update(expire_date=ends)
    Session.objects.filter(pk=keys[1]).delete()

    with django_assert_num_queries(1):
        found = look_up([], keys).sessions

    assert found.keys() == {keys[0], keys[2]}
    assert found[keys[0]] == ends.timestamp()


def test_sessions_of_other_engines_are_asked_for_one_by_one(db, settings):
    settings.SESSION_ENGINE = "django.contrib.sessions.backends.cache"
    from django.contrib.sessions.backends.cache import SessionStore as CacheStore

    session = CacheStore()
    session.save()

    found = look_up([], [session.session_key, "gone"]).sessions

    assert found == {session.session_key: None}


def test_a_session_that_is_a_cookie_is_there(db, settings):
    settings.SESSION_ENGINE = "django.contrib.sessions.backends.signed_cookies"

    assert look_up([], ["cookie"]).sessions == {"cookie": None}


def test_the_reference_of_a_session_does_not_tell_its_key():
    assert session_reference("key") == session_reference("key")
    assert session_reference("key") != session_reference("kez")
    assert "key" not in str(announcement(sessions=["key"]))


# The watch, over users that are made up


class Registry:
    """The database of these tests: how users and sessions stand."""

    def __init__(self) -> None:
        self.users: dict[str, User] = {}
        self.sessions: dict[str, float | None] = {}
        self.asked: list[tuple[set[str], set[str]]] = []
        self.fail_with: Exception | None = None

    def add(self, number: int, **fields) -> User:
        user = User(pk=number, username=f"user{number}", password="!", **fields)
        self.users[str(number)] = user
        return User(pk=number, username=f"user{number}", password="!", **fields)

    def find(self, user_ids, session_keys) -> Found:
        self.asked.append((set(user_ids), set(session_keys)))
        if self.fail_with is not None:
            raise self.fail_with
        return Found(
            {
                key: (self.users[key], AccountState.of(self.users[key], b""))
                for key in user_ids
                if key in self.users
            },
            {k: self.sessions[k] for k in session_keys if k in self.sessions},
        )


@pytest.fixture
def people():
    return Registry()


@pytest.fixture
def layer():
    return InMemoryChannelLayer()


@pytest.fixture
async def bus(layer):
    made = Cluster(layer)
    yield made
    await made.close()


@pytest.fixture
async def watch(people, bus):
    made = RevocationWatcher(bus=lambda: bus, settle=0, find=people.find)
    yield made
    await made.close()


async def looked(watch, people):
    """Wait until all users were looked up, and forget who they were."""
    await until(lambda: watch._bus().is_open)
    await until(lambda: not watch.busy)
    people.asked.clear()


async def test_a_new_connection_is_looked_up_soon(watch, people):
    told = []
    watch.register(people.add(1), None, told.append)

    await until(lambda: people.asked)

    assert people.asked[0] == ({"1"}, set())
    assert told == []


async def test_what_changed_between_log_in_and_registration_is_found(watch, people):
    told = []
    ada = people.add(1)
    people.users["1"].is_active = False

    watch.register(ada, None, told.append)

    await until(lambda: told)
    assert told == [Reason.DEACTIVATED]


async def test_connections_that_come_together_are_looked_up_together(watch, people):
    for number in range(40):
        watch.register(people.add(number), f"key{number}", lambda reason: None)

    await until(lambda: people.asked)

    users, sessions = people.asked[0]
    assert (len(users), len(sessions)) == (40, 40)


async def test_a_crowd_is_looked_up_in_portions(watch, people):
    for number in range(1200):
        watch.register(people.add(number), None, lambda reason: None)

    await until(lambda: len(people.asked) >= 3)

    assert [len(users) for users, _ in people.asked[:3]] == [500, 500, 200]


async def test_an_announcement_has_its_users_looked_up_and_no_others(
    watch, people, layer
):
    told = {"1": [], "2": []}
    for number in (1, 2):
        watch.register(people.add(number), None, told[str(number)].append)
    await looked(watch, people)
    people.users["1"].password = "new"
    people.users["2"].password = "new"

    watch.receive(announcement(users=[1, 77]))
    await until(lambda: told["1"])

    assert people.asked == [({"1"}, set())]
    assert told == {"1": [Reason.PASSWORD_CHANGED], "2": []}


async def test_every_connection_of_a_user_is_told(watch, people, layer):
    told = []
    for _ in range(3):
        watch.register(people.add(1), None, told.append)
    await looked(watch, people)
    del people.users["1"]

    watch.receive(announcement(users=["1"]))
    await until(lambda: len(told) == 3)

    assert told == [Reason.DELETED] * 3
    assert len(people.asked) == 1


async def test_everybody_can_be_looked_up(watch, people, layer):
    told = []
    for number in range(3):
        watch.register(people.add(number), None, told.append)
        people.users[str(number)].is_staff = number == 2
    await until(lambda: told)
    await looked(watch, people)
    for each in people.users.values():
        each.is_superuser = True

    watch.receive(announcement(everybody=True))
    await until(lambda: len(told) == 4)

    assert told == [Reason.PERMISSIONS_CHANGED] * 4


async def test_an_ended_session_is_told_at_once_and_to_its_own_connections(
    watch, people, layer
):
    people.sessions = {"a": None, "b": None}
    told = {"a": [], "b": []}
    for key in "ab":
        watch.register(people.add(1), key, told[key].append)
    await looked(watch, people)

    watch.receive(announcement(sessions=["a", "unknown"]))
    await until(lambda: told["a"])

    assert told == {"a": [Reason.LOGGED_OUT], "b": []}
    assert people.asked == []


async def test_a_session_that_is_gone_ends_the_connection(watch, people):
    told = []
    watch.register(people.add(1), "gone", told.append)

    await until(lambda: told)

    assert told == [Reason.LOGGED_OUT]


async def test_a_final_reason_is_told_once(watch, people, layer):
    told = []
    registration = watch.register(people.add(1), None, told.append)
    watch.register(people.add(2), None, lambda reason: None)
    await looked(watch, people)
    del people.users["1"]

    for _ in range(2):
        watch.receive(announcement(everybody=True))
        await until(lambda: watch.busy)
        await looked(watch, people)

    assert told == [Reason.DELETED]
    assert not registration.watched
    assert len(watch) == 1


async def test_changed_permissions_are_told_each_time_they_change(watch, people, layer):
    told = []
    watch.register(people.add(1), None, told.append)
    await looked(watch, people)

    for staff in (True, True, False):
        people.users["1"].is_staff = staff
        watch.receive(announcement(users=[1], rights=False))
        await until(lambda: watch.busy)
        await looked(watch, people)

    assert told == [Reason.PERMISSIONS_CHANGED] * 2


async def test_the_connections_user_is_renewed_before_it_is_told(watch, people, layer):
    ada = people.add(1)
    seen = []
    watch.register(ada, None, lambda reason: seen.append(ada.is_staff))
    await looked(watch, people)
    people.users["1"].is_staff = True

    watch.receive(announcement(users=[1]))
    await until(lambda: seen)

    assert seen == [True]


async def test_rights_that_change_while_a_connection_is_new_are_told_in_any_case(
    people, layer
):
    """The first look-up may come after the change, and its announcement after that."""
    now = [1000.0]
    watch = RevocationWatcher(settle=0, find=people.find, clock=lambda: now[0])
    told = []
    watch.register(people.add(1), None, told.append)
    await looked(watch, people)

    watch.receive(announcement(users=[1]))
    await until(lambda: told)
    now[0] += 60
    watch.receive(announcement(users=[1]))
    await until(lambda: watch.busy)
    await looked(watch, people)

    assert told == [Reason.PERMISSIONS_CHANGED]
    await watch.close()


async def test_a_user_that_is_saved_while_a_connection_is_new_has_not_changed(
    watch, people, layer
):
    """A consumer that saves its user in connect() must not close itself."""
    told = []
    watch.register(people.add(1), None, told.append)
    watch.receive(announcement(users=[1], rights=False))
    await looked(watch, people)
    watch.receive(announcement(users=[1], rights=False))
    await until(lambda: watch.busy)
    await looked(watch, people)

    assert told == []


async def test_a_lazy_user_is_seen_through(watch, people, layer):
    ada = people.add(1)
    ada._perm_cache = ada._user_perm_cache = ada._group_perm_cache = {"old"}
    lazy = SimpleLazyObject(lambda: ada)
    assert lazy.username == "user1"  # it is loaded now
    seen = []
    watch.register(lazy, None, lambda reason: seen.append(lazy.is_staff))
    await looked(watch, people)
    people.users["1"].is_staff = True

    watch.receive(announcement(users=[1]))
    await until(lambda: seen)

    assert seen == [True]
    assert (
        not {"_perm_cache", "_user_perm_cache", "_group_perm_cache"} & vars(ada).keys()
    )


@pytest.mark.parametrize("nobody", [None, AnonymousUser(), User(), object()])
async def test_who_is_not_in_the_database_is_not_watched(watch, nobody):
    assert watch.register(nobody, "key", lambda reason: None) is None
    assert len(watch) == 0


async def test_a_cancelled_registration_is_told_nothing(watch, people, layer):
    told = []
    registration = watch.register(people.add(1), "key", told.append)
    watch.register(people.add(2), None, lambda reason: None)
    registration.cancel()
    registration.cancel()
    people.users.clear()

    watch.receive(announcement(users=[1], sessions=["key"]))
    watch.receive(announcement(users=[2]))
    await until(lambda: watch.busy)
    await looked(watch, people)

    assert told == []


async def test_a_connection_that_ended_while_others_were_told_is_told_nothing(
    watch, people
):
    """One callback ends the other connection, as closing a page's tabs does."""
    told = []
    registrations = []

    def tell(number):
        def on_change(reason):
            told.append(number)
            registrations[1 - number].cancel()

        return on_change

    registrations += [
        watch.register(people.add(1), None, tell(number)) for number in range(2)
    ]
    people.users.clear()

    await until(lambda: told)
    await until(lambda: not watch.busy)

    assert len(told) == 1


async def test_a_callback_that_raises_keeps_nobody_from_being_told(
    watch, people, layer, caplog
):
    told = []

    def fail(reason):
        raise RuntimeError("broken")

    watch.register(people.add(1), None, fail)
    watch.register(people.add(1), None, told.append)
    people.users.clear()

    await until(lambda: told)

    assert told == [Reason.DELETED]
    assert "could not be told" in caplog.text


async def test_a_watcher_without_connections_has_no_task(watch, people):
    tasks = asyncio.all_tasks()
    registration = watch.register(people.add(1), None, lambda reason: None)
    await looked(watch, people)
    registration.cancel()

    await until(lambda: asyncio.all_tasks() <= tasks)

    again = []
    watch.register(people.add(2), None, again.append)
    people.users.clear()
    await until(lambda: again)
    assert again == [Reason.DELETED]


async def test_a_look_up_that_fails_is_tried_again(watch, people, monkeypatch, caplog):
    monkeypatch.setattr("tiderace.revocation.watcher._RETRY", 0)
    told = []
    people.fail_with = OSError("no database")
    watch.register(people.add(1), None, told.append)
    await until(lambda: people.asked)
    assert told == []

    people.fail_with = None
    people.users.clear()
    await until(lambda: told)

    assert told == [Reason.DELETED]
    assert "could not look up 1 connected users" in caplog.text


async def test_all_users_are_looked_up_when_a_broken_layer_works_again(
    people, monkeypatch, caplog
):
    monkeypatch.setattr("tiderace.revocation.watcher._RETRY", 0)

    class Fragile(InMemoryChannelLayer):
        broken = True

        async def stream_subscribe(self, group, listener):
            if self.broken:
                raise ConnectionError("away")
            await super().stream_subscribe(group, listener)

    layer = Fragile()
    bus = Cluster(layer)
    watch = RevocationWatcher(bus=lambda: bus, settle=0, find=people.find)
    told = []
    watch.register(people.add(1), None, told.append)
    await until(lambda: "changes of users do not reach" in caplog.text)
    await until(lambda: not watch.busy)
    await settle()

    people.users.clear()
    layer.broken = False
    await until(lambda: told)

    assert told == [Reason.DELETED]
    assert caplog.text.count("changes of users do not reach") == 1
    await watch.close()
    await bus.close()


async def test_all_users_are_looked_up_when_messages_were_lost(watch, people, bus):
    told = []
    watch.register(people.add(1), None, told.append)
    await looked(watch, people)
    people.users.clear()

    bus.on_gap(CLUSTER_GROUP)
    await until(lambda: told)

    assert told == [Reason.DELETED]


async def test_all_users_are_looked_up_when_the_broker_is_back(watch, people, layer):
    """What could not be sent meanwhile is nowhere, and no gap in what was."""
    told = []
    watch.register(people.add(1), None, told.append)
    await looked(watch, people)
    people.users.clear()

    layer.after_reconnect()
    await until(lambda: told)

    assert told == [Reason.DELETED]


async def test_an_announcement_arrives_over_the_bus(watch, people, bus):
    told = []
    watch.register(people.add(1), "key", told.append)
    people.sessions["key"] = None
    await looked(watch, people)

    await bus.tell("revocation", announcement(sessions=["key"]))
    await until(lambda: told)

    assert told == [Reason.LOGGED_OUT]


async def test_an_announcement_may_come_from_another_thread(watch, people):
    told = []
    watch.register(people.add(1), "key", told.append)
    people.sessions["key"] = None
    await looked(watch, people)

    await asyncio.to_thread(watch.receive, announcement(sessions=["key"]))
    await until(lambda: told)

    assert told == [Reason.LOGGED_OUT]


async def test_everybody_is_looked_up_once_in_a_while(people):
    jitters = []
    watch = RevocationWatcher(
        interval=0.01,
        settle=0,
        find=people.find,
        jitter=lambda: jitters.append(1) or 1.0,
    )
    told = []
    watch.register(people.add(1), None, told.append)
    await looked(watch, people)
    people.users["1"].is_active = False

    await until(lambda: told)

    assert told == [Reason.DEACTIVATED]
    assert len(jitters) > 1
    await watch.close()


async def test_a_session_ends_at_its_time(people):
    start = time.time()
    now = [start]
    watch = RevocationWatcher(settle=0, find=people.find, clock=lambda: now[0])
    told = []
    people.sessions["key"] = start + 100
    watch.register(people.add(1), "key", told.append)
    await looked(watch, people)
    assert told == []

    now[0] = start + 101
    watch.receive(announcement(users=[1]))
    await until(lambda: told)

    assert told == [Reason.SESSION_EXPIRED]
    await watch.close()


async def test_the_watch_wakes_up_for_the_end_of_a_session(people):
    watch = RevocationWatcher(settle=0, find=people.find)
    told = []
    people.sessions["key"] = time.time() + 0.05
    watch.register(people.add(1), "key", told.append)

    await until(lambda: told)

    assert told == [Reason.SESSION_EXPIRED]
    await watch.close()


async def test_a_session_that_was_prolonged_goes_on(people):
    watch = RevocationWatcher(settle=0, find=people.find)
    told = []
    people.sessions["key"] = time.time() + 0.05
    watch.register(people.add(1), "key", told.append)
    await looked(watch, people)
    people.sessions["key"] = time.time() + 1000

    await until(lambda: people.asked)
    await settle()

    assert told == []
    await watch.close()


# Consumers, with Django's own users and sessions


class Quiet(AsyncWebsocketConsumer):
    """Accepts, and leaves the rest to the framework."""

    async def connect(self):
        await self.accept()


class Curious(AsyncWebsocketConsumer):
    """Says why, and who it is now."""

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
async def no_watch_stays():
    yield
    await signals.close()


def cookies(key):
    return [(b"cookie", f"sessionid={key}".encode())]


async def socket_of(user, consumer=Quiet, **data):
    """An open socket of a logged-in user, and the key of its session."""
    key = await sync_to_async(session_of)(user, **data)
    app = AuthMiddlewareStack(consumer.as_asgi())
    client = await Client(app, headers=cookies(key)).open()
    # Looked up once, so that what follows is told by signals alone.
    watch = signals.current_watch()
    await until(lambda: not len(watch) or cluster.current().is_open)
    await until(lambda: not watch.busy)
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
async def test_a_new_password_closes_the_sockets_of_who_changed_it_too(
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
async def test_other_rights_close_the_users_sockets_for_them_to_come_back(
    user, revalidate, which
):
    before, after = RIGHTS[which]
    await change(before, user)
    client, _ = await socket_of(user)

    await change(after, user)

    assert await closed(client) == (1012, "permissions_changed")


@pytest_db
async def test_a_handler_decides_and_sees_the_user_as_it_is_now(user, revalidate):
    client, key = await socket_of(user, Curious)

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
async def test_what_is_rolled_back_is_not_announced(user, revalidate):
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
async def test_what_says_nothing_of_rights_is_not_announced(user, revalidate):
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
async def test_a_change_that_no_signal_tells_of_can_be_announced(user, revalidate):
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
    assert len(signals.current_watch()) == 0
    await client.leave()


@pytest_db
async def test_a_visitor_without_an_account_is_not_watched(revalidate):
    client = await Client(AuthMiddlewareStack(Quiet.as_asgi())).open()

    assert len(signals.current_watch()) == 0
    await client.leave()


@pytest_db
async def test_a_closed_socket_is_not_watched_any_more(user, revalidate):
    client, _ = await socket_of(user)
    assert len(signals.current_watch()) == 1

    await client.leave()

    assert len(signals.current_watch()) == 0


@pytest_db
async def test_a_session_of_somebody_else_does_not_speak_for_a_token(user, revalidate):
    """An outer middleware has named the user; the cookie's session is another matter."""
    other = await change(User.objects.create_user, "grace")
    key = await change(session_of, other)
    app = AuthMiddlewareStack(Quiet.as_asgi())
    client = await Client(app, headers=cookies(key), user=user).open()

    await change(django_logout, request_of(other, key))
    await change(user.save)
    await until(lambda: not signals.current_watch().busy)

    assert client.kinds == ["websocket.accept"]
    await client.leave()


@pytest_db
async def test_topics_know_which_session_speaks_for_a_connection(user):
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
async def test_a_good_token_of_an_id_that_is_no_key_connects_nobody(monkeypatch):
    """What a field says of such text, a ValidationError, must not break the look-up."""
    token = connection_token(User(pk="no-uuid"))
    monkeypatch.setattr(User._meta, "pk", UUIDField())

    with pytest.raises(TokenInvalid, match="no active user"):
        await identity_of({}, token)


@pytest_db
async def test_an_announcement_that_cannot_be_sent_breaks_no_save(
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
async def test_without_a_layer_the_sockets_of_this_process_are_told(
    user, revalidate, settings
):
    settings.CHANNEL_LAYERS = {}
    client, key = await socket_of(user)

    await change(django_logout, request_of(user, key))

    assert await closed(client) == (4401, "logged_out")


async def test_topics_have_changes_announced_without_the_setting(monkeypatch):
    monkeypatch.setattr(signals, "_required", False)
    seen = []
    monkeypatch.setattr(signals, "announce", lambda **what: seen.append(what))
    signal = {"instance": User(pk=1), "created": False, "update_fields": None}

    signals._saved(**signal, using="default")
    signals.require()
    signals._saved(**signal, using="default")

    assert seen == [{"users": (1,), "rights": False, "using": "default"}]


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
def test_a_session_speaks_for_its_own_user_once_it_was_read(session, user, key):
    store = SessionStore("the-session-key")
    if session is not None:
        store._session_cache = session

    assert signals.session_key_of({"session": store, "user": user}) == key
    assert signals.session_key_of({"user": user}) == ""


def test_users_without_groups_have_no_signals_of_groups(monkeypatch):
    monkeypatch.setattr(signals, "_relation", lambda model, name: None)
    monkeypatch.setattr(
        signals.m2m_changed, "connect", lambda *a, **k: pytest.fail("connected")
    )

    signals.connect_signals()


def test_without_django_users_there_is_nothing_to_listen_to(settings, monkeypatch):
    monkeypatch.setattr(signals.apps, "is_installed", lambda name: False)
    monkeypatch.setattr(
        signals.user_logged_out,
        "connect",
        lambda *a, **k: pytest.fail("connected"),
    )

    signals.connect_signals()
