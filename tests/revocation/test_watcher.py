"""The watcher, over a registry of users instead of a database."""

from __future__ import annotations

import asyncio
import time

import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.utils.functional import SimpleLazyObject

from support.waiting import settle, until
from tiderace.cluster import Cluster
from tiderace.layers import InMemoryChannelLayer
from tiderace.layers.names import CLUSTER_GROUP
from tiderace.revocation.account_state import (
    AccountState,
    Found,
    Reason,
)
from tiderace.revocation.watcher import RevocationWatcher, announcement


class Registry:
    """The database of these tests: users and sessions."""

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
def registry():
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
async def watcher(registry, bus):
    made = RevocationWatcher(bus=lambda: bus, settle=0, find=registry.find)
    yield made
    await made.close()


async def looked_up(watcher, registry):
    """Wait until all users were looked up, and clear the list of look-ups."""
    await until(lambda: watcher._bus().is_open)
    await until(lambda: not watcher.busy)
    registry.asked.clear()


async def test_a_new_connection_is_looked_up_soon(watcher, registry):
    reasons = []
    watcher.register(registry.add(1), None, reasons.append)

    await until(lambda: registry.asked)

    assert registry.asked[0] == ({"1"}, set())
    assert reasons == []


async def test_a_change_between_log_in_and_registration_is_found(watcher, registry):
    reasons = []
    ada = registry.add(1)
    registry.users["1"].is_active = False

    watcher.register(ada, None, reasons.append)

    await until(lambda: reasons)
    assert reasons == [Reason.DEACTIVATED]


async def test_connections_that_come_together_are_looked_up_together(watcher, registry):
    for number in range(40):
        watcher.register(registry.add(number), f"key{number}", lambda reason: None)

    await until(lambda: registry.asked)

    users, sessions = registry.asked[0]
    assert (len(users), len(sessions)) == (40, 40)


async def test_many_users_are_looked_up_in_batches(watcher, registry):
    for number in range(1200):
        watcher.register(registry.add(number), None, lambda reason: None)

    await until(lambda: len(registry.asked) >= 3)

    assert [len(users) for users, _ in registry.asked[:3]] == [500, 500, 200]


async def test_the_users_of_an_announcement_are_looked_up_and_no_others(
    watcher, registry, layer
):
    reasons = {"1": [], "2": []}
    for number in (1, 2):
        watcher.register(registry.add(number), None, reasons[str(number)].append)
    await looked_up(watcher, registry)
    registry.users["1"].password = "new"
    registry.users["2"].password = "new"

    watcher.receive(announcement(users=[1, 77]))
    await until(lambda: reasons["1"])

    assert registry.asked == [({"1"}, set())]
    assert reasons == {"1": [Reason.PASSWORD_CHANGED], "2": []}


async def test_every_connection_of_a_user_gets_the_reason(watcher, registry, layer):
    reasons = []
    for _ in range(3):
        watcher.register(registry.add(1), None, reasons.append)
    await looked_up(watcher, registry)
    del registry.users["1"]

    watcher.receive(announcement(users=["1"]))
    await until(lambda: len(reasons) == 3)

    assert reasons == [Reason.DELETED] * 3
    assert len(registry.asked) == 1


async def test_an_announcement_may_concern_all_users(watcher, registry, layer):
    reasons = []
    for number in range(3):
        watcher.register(registry.add(number), None, reasons.append)
        registry.users[str(number)].is_staff = number == 2
    await until(lambda: reasons)
    await looked_up(watcher, registry)
    for each in registry.users.values():
        each.is_superuser = True

    watcher.receive(announcement(all_users=True))
    await until(lambda: len(reasons) == 4)

    assert reasons == [Reason.PERMISSIONS_CHANGED] * 4


async def test_the_end_of_a_session_reaches_its_own_connections_at_once(
    watcher, registry, layer
):
    registry.sessions = {"a": None, "b": None}
    reasons = {"a": [], "b": []}
    for key in "ab":
        watcher.register(registry.add(1), key, reasons[key].append)
    await looked_up(watcher, registry)

    watcher.receive(announcement(sessions=["a", "unknown"]))
    await until(lambda: reasons["a"])

    assert reasons == {"a": [Reason.LOGGED_OUT], "b": []}
    assert registry.asked == []


async def test_a_session_that_is_gone_ends_the_connection(watcher, registry):
    reasons = []
    watcher.register(registry.add(1), "gone", reasons.append)

    await until(lambda: reasons)

    assert reasons == [Reason.LOGGED_OUT]


async def test_a_final_reason_is_given_once(watcher, registry, layer):
    reasons = []
    watcher.register(registry.add(1), None, reasons.append)
    watcher.register(registry.add(2), None, lambda reason: None)
    await looked_up(watcher, registry)
    del registry.users["1"]

    for _ in range(2):
        watcher.receive(announcement(all_users=True))
        await until(lambda: watcher.busy)
        await looked_up(watcher, registry)

    assert reasons == [Reason.DELETED]
    assert len(watcher) == 1


async def test_changed_permissions_are_reported_each_time_they_change(
    watcher, registry, layer
):
    reasons = []
    watcher.register(registry.add(1), None, reasons.append)
    await looked_up(watcher, registry)

    for staff in (True, True, False):
        registry.users["1"].is_staff = staff
        watcher.receive(announcement(users=[1], rights=False))
        await until(lambda: watcher.busy)
        await looked_up(watcher, registry)

    assert reasons == [Reason.PERMISSIONS_CHANGED] * 2


async def test_the_user_object_is_renewed_before_the_callback(watcher, registry, layer):
    ada = registry.add(1)
    seen = []
    watcher.register(ada, None, lambda reason: seen.append(ada.is_staff))
    await looked_up(watcher, registry)
    registry.users["1"].is_staff = True

    watcher.receive(announcement(users=[1]))
    await until(lambda: seen)

    assert seen == [True]


async def test_permissions_that_change_while_a_connection_is_new_are_reported_in_any_case(
    registry, layer
):
    """The first look-up may come after the change, and its announcement after that."""
    now = [1000.0]
    watcher = RevocationWatcher(settle=0, find=registry.find, clock=lambda: now[0])
    reasons = []
    watcher.register(registry.add(1), None, reasons.append)
    await looked_up(watcher, registry)

    watcher.receive(announcement(users=[1]))
    await until(lambda: reasons)
    now[0] += 60
    watcher.receive(announcement(users=[1]))
    await until(lambda: watcher.busy)
    await looked_up(watcher, registry)

    assert reasons == [Reason.PERMISSIONS_CHANGED]
    await watcher.close()


async def test_a_user_that_is_saved_while_a_connection_is_new_has_not_changed(
    watcher, registry, layer
):
    """A consumer that saves its user in connect() must not close itself."""
    reasons = []
    watcher.register(registry.add(1), None, reasons.append)
    watcher.receive(announcement(users=[1], rights=False))
    await looked_up(watcher, registry)
    watcher.receive(announcement(users=[1], rights=False))
    await until(lambda: watcher.busy)
    await looked_up(watcher, registry)

    assert reasons == []


async def test_a_lazy_user_is_unwrapped(watcher, registry, layer):
    ada = registry.add(1)
    ada._perm_cache = ada._user_perm_cache = ada._group_perm_cache = {"old"}
    lazy = SimpleLazyObject(lambda: ada)
    assert lazy.username == "user1"  # it is loaded now
    seen = []
    watcher.register(lazy, None, lambda reason: seen.append(lazy.is_staff))
    await looked_up(watcher, registry)
    registry.users["1"].is_staff = True

    watcher.receive(announcement(users=[1]))
    await until(lambda: seen)

    assert seen == [True]
    assert (
        not {"_perm_cache", "_user_perm_cache", "_group_perm_cache"} & vars(ada).keys()
    )


@pytest.mark.parametrize("nobody", [None, AnonymousUser(), User(), object()])
async def test_a_user_that_is_not_in_the_database_is_not_watched(watcher, nobody):
    assert watcher.register(nobody, "key", lambda reason: None) is None
    assert len(watcher) == 0


async def test_a_cancelled_registration_gets_no_reason(watcher, registry, layer):
    reasons = []
    registration = watcher.register(registry.add(1), "key", reasons.append)
    watcher.register(registry.add(2), None, lambda reason: None)
    registration.cancel()
    registration.cancel()
    registry.users.clear()

    watcher.receive(announcement(users=[1], sessions=["key"]))
    watcher.receive(announcement(users=[2]))
    await until(lambda: watcher.busy)
    await looked_up(watcher, registry)

    assert reasons == []


async def test_a_connection_that_another_callback_ends_gets_no_reason(
    watcher, registry
):
    """One callback ends the other connection, as closing a page's tabs does."""
    reasons = []
    registrations = []

    def tell(number):
        def on_change(reason):
            reasons.append(number)
            registrations[1 - number].cancel()

        return on_change

    registrations += [
        watcher.register(registry.add(1), None, tell(number)) for number in range(2)
    ]
    registry.users.clear()

    await until(lambda: reasons)
    await until(lambda: not watcher.busy)

    assert len(reasons) == 1


async def test_a_callback_that_raises_does_not_prevent_the_others(
    watcher, registry, layer, caplog
):
    reasons = []

    def fail(reason):
        raise RuntimeError("broken")

    watcher.register(registry.add(1), None, fail)
    watcher.register(registry.add(1), None, reasons.append)
    registry.users.clear()

    await until(lambda: reasons)

    assert reasons == [Reason.DELETED]
    assert "could not handle" in caplog.text


async def test_a_watcher_without_connections_has_no_task(watcher, registry):
    tasks = asyncio.all_tasks()
    registration = watcher.register(registry.add(1), None, lambda reason: None)
    await looked_up(watcher, registry)
    registration.cancel()

    await until(lambda: asyncio.all_tasks() <= tasks)

    again = []
    watcher.register(registry.add(2), None, again.append)
    registry.users.clear()
    await until(lambda: again)
    assert again == [Reason.DELETED]


async def test_a_look_up_that_fails_is_tried_again(
    watcher, registry, monkeypatch, caplog
):
    monkeypatch.setattr("tiderace.revocation.watcher._RETRY", 0)
    reasons = []
    registry.fail_with = OSError("no database")
    watcher.register(registry.add(1), None, reasons.append)
    await until(lambda: registry.asked)
    assert reasons == []

    registry.fail_with = None
    registry.users.clear()
    await until(lambda: reasons)

    assert reasons == [Reason.DELETED]
    assert "could not look up 1 connected users" in caplog.text


async def test_all_users_are_looked_up_when_a_broken_layer_works_again(
    registry, monkeypatch, caplog
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
    watcher = RevocationWatcher(bus=lambda: bus, settle=0, find=registry.find)
    reasons = []
    watcher.register(registry.add(1), None, reasons.append)
    await until(lambda: "changes of users do not reach" in caplog.text)
    await until(lambda: not watcher.busy)
    await settle()

    registry.users.clear()
    layer.broken = False
    await until(lambda: reasons)

    assert reasons == [Reason.DELETED]
    assert caplog.text.count("changes of users do not reach") == 1
    await watcher.close()
    await bus.close()


async def test_all_users_are_looked_up_when_messages_were_lost(watcher, registry, bus):
    reasons = []
    watcher.register(registry.add(1), None, reasons.append)
    await looked_up(watcher, registry)
    registry.users.clear()

    bus.on_gap(CLUSTER_GROUP)
    await until(lambda: reasons)

    assert reasons == [Reason.DELETED]


async def test_all_users_are_looked_up_when_the_broker_is_back(
    watcher, registry, layer
):
    """Announcements that could not be sent leave no gap in the stream."""
    reasons = []
    watcher.register(registry.add(1), None, reasons.append)
    await looked_up(watcher, registry)
    registry.users.clear()

    layer.after_reconnect()
    await until(lambda: reasons)

    assert reasons == [Reason.DELETED]


async def test_an_announcement_arrives_over_the_bus(watcher, registry, bus):
    reasons = []
    watcher.register(registry.add(1), "key", reasons.append)
    registry.sessions["key"] = None
    await looked_up(watcher, registry)

    await bus.tell("revocation", announcement(sessions=["key"]))
    await until(lambda: reasons)

    assert reasons == [Reason.LOGGED_OUT]


async def test_an_announcement_may_come_from_another_thread(watcher, registry):
    reasons = []
    watcher.register(registry.add(1), "key", reasons.append)
    registry.sessions["key"] = None
    await looked_up(watcher, registry)

    await asyncio.to_thread(watcher.receive, announcement(sessions=["key"]))
    await until(lambda: reasons)

    assert reasons == [Reason.LOGGED_OUT]


async def test_all_users_are_looked_up_at_intervals(registry, monkeypatch):
    spreads = []
    spread = lambda *bounds: spreads.append(bounds) or 1.0  # noqa: E731
    monkeypatch.setattr("tiderace.revocation.watcher.random.uniform", spread)
    watcher = RevocationWatcher(interval=0.01, settle=0, find=registry.find)
    reasons = []
    watcher.register(registry.add(1), None, reasons.append)
    await looked_up(watcher, registry)
    registry.users["1"].is_active = False

    await until(lambda: reasons)

    assert reasons == [Reason.DEACTIVATED]
    assert len(spreads) > 1
    assert set(spreads) == {(0.8, 1.2)}
    await watcher.close()


async def test_a_session_ends_at_its_time(registry):
    start = time.time()
    now = [start]
    watcher = RevocationWatcher(settle=0, find=registry.find, clock=lambda: now[0])
    reasons = []
    registry.sessions["key"] = start + 100
    watcher.register(registry.add(1), "key", reasons.append)
    await looked_up(watcher, registry)
    assert reasons == []

    now[0] = start + 101
    watcher.receive(announcement(users=[1]))
    await until(lambda: reasons)

    assert reasons == [Reason.SESSION_EXPIRED]
    await watcher.close()


async def test_the_watcher_wakes_up_for_the_end_of_a_session(registry):
    watcher = RevocationWatcher(settle=0, find=registry.find)
    reasons = []
    registry.sessions["key"] = time.time() + 0.05
    watcher.register(registry.add(1), "key", reasons.append)

    await until(lambda: reasons)

    assert reasons == [Reason.SESSION_EXPIRED]
    await watcher.close()


async def test_a_session_that_was_prolonged_goes_on(registry):
    watcher = RevocationWatcher(settle=0, find=registry.find)
    reasons = []
    registry.sessions["key"] = time.time() + 0.05
    watcher.register(registry.add(1), "key", reasons.append)
    await looked_up(watcher, registry)
    registry.sessions["key"] = time.time() + 1000

    await until(lambda: registry.asked)
    await settle()

    assert reasons == []
    await watcher.close()
