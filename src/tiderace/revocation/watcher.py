"""Watches the users of open connections, and reports ended log-ins and changed permissions.

Users are looked up in batches: those that any process has announced as changed, and
periodically all of them, since not every change sends a signal.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import logging
import random
import time
from collections.abc import Callable, Collection, Iterable
from typing import Any

from django.contrib.auth import get_user_model

from tiderace import cluster
from tiderace.asgi import unwrap_lazy
from tiderace.cluster import Cluster
from tiderace.db import database_sync_to_async
from tiderace.revocation.account_state import (
    AccountState,
    Found,
    Reason,
    look_up,
    renew,
    session_reference,
)
from tiderace.revocation.registrations import Registration, Registrations
from tiderace.runtime import threads
from tiderace.runtime.futures import call_soon

__all__ = ["RevocationWatcher", "announcement"]

logger = logging.getLogger("tiderace.security")

# Users in one look-up: SQLite accepts at most 999 values in a query.
_BATCH = 500
# Seconds between a change and the look-up, which then covers further changes.
_SETTLE = 0.1
# Seconds that an announcement may be in transit. Permissions that were first looked up
# less than this before its arrival may already include the change.
_DELAY = 5.0
# Seconds between attempts to reach the database or the broker.
_RETRY = 5.0


def announcement(
    *,
    users: Iterable[object] = (),
    sessions: Iterable[str] = (),
    all_users: bool = False,
    rights: bool = True,
) -> dict[str, Any]:
    """Return the message that announces changes to all watchers.

    Args:
        users: primary keys; the users will be looked up.
        sessions: keys of sessions that have ended; their connections end at once.
        all_users: whether all users are to be looked up.
        rights: whether groups or permissions may have changed. Those at the time of the
            handshake are unknown, unlike the user's row, so very new connections are
            always treated as changed.
    """
    return {
        "users": [str(user) for user in users],
        "sessions": [session_reference(key) for key in sessions],
        "all_users": all_users,
        "rights": rights,
    }


class RevocationWatcher:
    """Watches the users of one event loop's connections.

    A task runs while there are connections. Within about ``settle`` seconds of an
    announcement, and at the latest every ``interval``, the users are looked up, and
    their connections get the reason of a change. Before that the user object of the
    connection is refreshed, so that its fields and permissions are current.
    After a final reason the connection is watched no longer.

    Args:
        bus: returns the cluster bus that announcements arrive on; it is kept open.
        interval: seconds between two look-ups of all users, a fifth more or less.
        settle: seconds that announcements are collected for.
        find: looks users and sessions up; blocks, and is called in a thread.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        *,
        bus: Callable[[], Cluster] = cluster.current,
        interval: float = 300.0,
        settle: float = _SETTLE,
        find: Callable[[Collection[str], Collection[str]], Found] = look_up,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._bus = bus
        self._interval = interval
        self._settle = settle
        self._find = find
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._registrations = Registrations()
        # Users to be looked up, and the event that wakes the task for them.
        self._due: set[str] = set()
        self._wake_up = asyncio.Event()
        # The time at which a session ends and its user's id, by session key; only of
        # sessions that end before the next look-up of all users.
        self._endings: dict[str, tuple[float, str]] = {}
        self._next_round = 0.0
        self._task: asyncio.Task[None] | None = None
        self.busy = False
        """Whether any user is still to be looked up; for tests."""

    def __len__(self) -> int:
        return len(self._registrations)

    def register(
        self, user: Any, session_key: str | None, on_change: Callable[[Reason], None]
    ) -> Registration | None:
        """Watch a connection until it is cancelled; to be called in the event loop.

        Its user is looked up soon after, in one batch with others, since something may
        have changed between its log-in and now.

        Args:
            user: the connection's user, as loaded at the handshake.
            session_key: of the session that authenticated the user; None or empty
                after authentication without a session, as by a token.
            on_change: called with the reason, in the event loop; must return at once.

        Returns:
            The registration, to be cancelled; None for a user that is not in the
            database (anonymous, or another kind of object).
        """
        user = unwrap_lazy(user)
        if getattr(user, "pk", None) is None or not isinstance(user, get_user_model()):
            return None
        registration = Registration(
            user, str(user.pk), session_key or "", on_change, AccountState.of(user)
        )
        registration.cancel = functools.partial(self._discard, registration)
        self._registrations.add(registration)
        self._mark_due([registration.user_id])
        if self._task is None:
            _running.add(self)
            # The task gets a new context: that of the first connection ends with it.
            self._task = self._loop.create_task(
                self._run(), context=contextvars.Context()
            )
        return registration

    def receive(self, message: dict[str, Any]) -> None:
        """Handle an ``announcement``; may be called from any thread."""
        call_soon(self._loop, self._on_announcement, message)

    async def close(self) -> None:
        """Stop watching all connections, and end the task."""
        self._registrations = Registrations()
        task = self._stop()
        if task is not None:
            await asyncio.wait([task])

    def _discard(self, registration: Registration) -> None:
        self._registrations.discard(registration)
        if not self._registrations:
            self._stop()

    def _stop(self) -> asyncio.Task[None] | None:
        _running.discard(self)
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
        self._due.clear()
        self._endings.clear()
        self.busy = False
        return task

    def _on_announcement(self, message: dict[str, Any]) -> None:
        watched = self._registrations
        for reference in message.get("sessions", ()):
            for registration in list(watched.by_session.get(reference, ())):
                self._notify(registration, Reason.LOGGED_OUT)
        users = [*watched.by_user] if message.get("all_users") else message.get("users")
        users = [each for each in users or () if each in watched.by_user]
        if message.get("rights"):
            now = self._clock()
            for registration in [r for each in users for r in watched.by_user[each]]:
                since = registration.looked_up_at
                registration.suspect = since is None or now < since + _DELAY
        self._mark_due(users)

    def _mark_due(self, user_ids: Iterable[str]) -> None:
        self._due.update(user_ids)
        if self._due:
            self.busy = True
            self._wake_up.set()

    # The task

    async def _run(self) -> None:
        opening = self._loop.create_task(self._keep_bus_open())
        try:
            async with threads.isolated():
                await self._look_up_forever()
        finally:
            opening.cancel()
            await asyncio.wait([opening])

    async def _keep_bus_open(self) -> None:
        failing = False
        while True:
            try:
                if await self._bus().open():
                    # Changes before that were not received.
                    self._mark_due(self._registrations.by_user)
                failing = False
            except Exception:
                if not failing:
                    logger.exception(
                        "changes of users do not reach this process; until the layer is "
                        "back they are noticed every %g s only",
                        self._interval,
                    )
                failing = True
            await asyncio.sleep(_RETRY)

    async def _look_up_forever(self) -> None:
        self._next_round = self._clock() + self._round_interval()
        while True:
            await self._wait()
            now = self._clock()
            if now >= self._next_round:
                self._mark_due(self._registrations.by_user)
                self._next_round = now + self._round_interval()
            for key, (ending, user_id) in list(self._endings.items()):
                if ending <= now:
                    del self._endings[key]
                    self._mark_due([user_id])
            if not await self._look_up_due():
                await asyncio.sleep(_RETRY)

    def _round_interval(self) -> float:
        return self._interval * random.uniform(0.8, 1.2)  # noqa: S311 (no secret)

    async def _wait(self) -> None:
        """Wait for an announcement, a session's end or the next look-up of all."""
        endings = (ending for ending, _ in self._endings.values())
        until = min([self._next_round, *endings])
        try:
            async with asyncio.timeout(max(until - self._clock(), 0)):
                await self._wake_up.wait()
        except TimeoutError:
            return
        await asyncio.sleep(self._settle)

    async def _look_up_due(self) -> bool:
        """Look up all users that are due; return False when that failed."""
        self._wake_up.clear()
        while self._due:
            batch = [self._due.pop() for _ in range(min(_BATCH, len(self._due)))]
            by_user = self._registrations.by_user
            watched = [each for user in batch for each in by_user.get(user, ())]
            if not watched:
                continue
            keys = {each.session_key for each in watched if each.session_key}
            try:
                found = await database_sync_to_async(self._find)(
                    {each.user_id for each in watched}, keys
                )
            except Exception:
                logger.exception(
                    "could not look up %d connected users, to see whether they may "
                    "stay; trying again in %g s",
                    len(watched),
                    _RETRY,
                )
                self._mark_due(batch)
                return False
            self._compare(watched, found)
        self.busy = False
        return True

    def _compare(self, watched: list[Registration], found: Found) -> None:
        now = self._clock()
        for registration in watched:
            user, state = found.users.get(registration.user_id, (None, None))
            reason = registration.state.change_to(state)
            if reason is None and registration.suspect:
                reason = Reason.PERMISSIONS_CHANGED
            registration.suspect = False
            if registration.looked_up_at is None:
                registration.looked_up_at = now
            if reason is None or not reason.final:
                reason = _session_ended(registration, found, now) or reason
            if user is not None and state is not None:
                registration.state = state
                if reason is not None:
                    renew(registration.user, user)
            if reason is not None:
                self._notify(registration, reason)
            self._schedule_ending(registration, found)

    def _schedule_ending(self, registration: Registration, found: Found) -> None:
        ending = found.sessions.get(registration.session_key)
        watched = registration in self._registrations
        if ending is not None and watched and ending < self._next_round:
            self._endings[registration.session_key] = (ending, registration.user_id)

    def _notify(self, registration: Registration, reason: Reason) -> None:
        if registration not in self._registrations:
            return  # it has ended meanwhile
        if reason.final:
            self._discard(registration)
        try:
            registration.on_change(reason)
        except Exception:
            logger.exception(
                "a connection of user %s could not handle that it is %s",
                registration.user_id,
                reason.value,
            )


# The watchers of this process that have connections.
_running: set[RevocationWatcher] = set()


@cluster.handler("revocation")
def _receive(message: dict[str, Any]) -> None:
    for watcher in _running.copy():
        watcher.receive(message)


@cluster.on_gap
@cluster.on_reconnect
def _look_all_up() -> None:
    _receive({"all_users": True})


def _session_ended(
    registration: Registration, found: Found, now: float
) -> Reason | None:
    key = registration.session_key
    if not key:
        return None
    if key not in found.sessions:
        return Reason.LOGGED_OUT
    ending = found.sessions[key]
    return Reason.SESSION_EXPIRED if ending is not None and ending <= now else None
