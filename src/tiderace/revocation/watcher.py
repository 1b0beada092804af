"""Who is connected, and is told when the log-in that let them in ends or means less.

One watch per event loop. It hears what other processes announce, looks users up in
batches, and looks at everybody once in a while, since signals do not see everything. It
takes a layer as the place messages come from, and knows connections as callbacks.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import random
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Coroutine, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

from django.contrib.auth import get_user_model
from django.utils.functional import LazyObject

from tiderace import conf, metrics
from tiderace.db import database_sync_to_async
from tiderace.revocation.account_state import (
    AccountState,
    Found,
    Reason,
    look_up,
    renew,
    session_reference,
)
from tiderace.runtime import threads

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["GROUP", "Reason", "Registration", "RevocationWatcher", "announcement"]

logger = logging.getLogger("tiderace.security")

T = TypeVar("T")

GROUP = "tiderace.auth"
"""The group in which every watch hears of every change: changes are rare and processes
few, while a group for each user would cost the broker something with every connection."""

# Users in one look-up: SQLite takes no more than 999 values in a query.
_BATCH = 500
# Seconds between a change and the look at it: what else changes meanwhile goes with it.
_SETTLE = 0.1
# Seconds between two looks at whether the broker is there.
_ATTENTION = 1.0
# Seconds that an announcement may be on its way. Rights that were first looked up so
# shortly before it may be those after the change.
_DELAY = 5.0
# Seconds until what failed (the database, the broker) is tried again.
_RETRY = 5.0


def announcement(
    *,
    users: Iterable[object] = (),
    sessions: Iterable[str] = (),
    everybody: bool = False,
    rights: bool = True,
) -> dict[str, Any]:
    """The message that says of whom something has changed.

    Args:
        users: primary keys; they will be looked up.
        sessions: keys of sessions that have ended; their connections are told at once.
        everybody: whether all users are to be looked up.
        rights: whether groups or permissions may have changed. What was so when a
            connection was let in is not known for these, unlike for the user's row, so
            connections that are quite new are told in any case.
    """
    return {
        "type": "tiderace.auth",
        "users": [str(user) for user in users],
        "sessions": [session_reference(key) for key in sessions],
        "everybody": everybody,
        "rights": rights,
    }


@dataclass(eq=False, slots=True)
class Registration:
    """One connection that is watched; ``cancel()`` when it ends."""

    user: Any
    user_id: str
    session_key: str
    on_change: Callable[[Reason], None]
    standing: AccountState
    """How the user stood when it was last looked at."""
    known_since: float | None = None
    """When its rights were first looked up; until then nothing is known of them."""
    suspect: bool = False
    """Whether its rights may have changed between its log-in and that."""
    _watch: RevocationWatcher | None = None

    @property
    def watched(self) -> bool:
        """Whether it was not cancelled, nor told something final."""
        return self._watch is not None

    def cancel(self) -> None:
        """Watch it no longer; again is the same as once."""
        watch, self._watch = self._watch, None
        if watch is not None:
            watch._discard(self)  # noqa: SLF001 (the two are one thing)


class RevocationWatcher:
    """Watches the users of one event loop's connections.

    A task runs while there is somebody to watch. Within about ``settle`` seconds of an
    announcement, and at the latest every ``interval``, everybody concerned is looked up
    and told what has changed: final reasons once, and then the connection is watched no
    longer. Before that the user object of the connection is renewed, so that its fields
    and permissions are those of now.

    Args:
        layer: finds the channel layer; asked when the first connection comes. Where it
            returns None only this process is heard, through ``heard``.
        interval: seconds between two looks at everybody, a fifth more or less.
        settle: seconds that announcements are collected for.
        find: looks users and sessions up; blocks, and is called in a thread.
        clock: seconds since 1970.
        jitter: between -1 and 1, for ``interval``.
    """

    def __init__(
        self,
        layer: Callable[[], Any],
        *,
        interval: float = 300.0,
        settle: float = _SETTLE,
        find: Callable[[Collection[str], Collection[str]], Found] = look_up,
        clock: Callable[[], float] = time.time,
        jitter: Callable[[], float] = lambda: random.uniform(-1, 1),  # noqa: S311 (no secret)
    ) -> None:
        self._layer = layer
        self._interval = interval
        self._settle = settle
        self._find = find
        self._clock = clock
        self._jitter = jitter
        self._loop = asyncio.get_running_loop()
        self._users: defaultdict[str, set[Registration]] = defaultdict(set)
        # By reference, not key.
        self._sessions: defaultdict[str, set[Registration]] = defaultdict(set)
        # Users to be looked up, and what wakes the task for that.
        self._due: set[str] = set()
        self._news = asyncio.Event()
        # By session key, when it ends and whose it is; those that end before the next
        # round, which finds the others.
        self._endings: dict[str, tuple[float, str]] = {}
        self._next_round = 0.0
        self._task: asyncio.Task[None] | None = None
        # Whether the layer lets us hear announcements; None while it was not asked.
        self._hears: bool | None = None
        # Connections to brokers that were lost, as counted when last seen; and whether
        # one was, since everybody was looked at.
        self._interruptions = metrics.LAYER_INTERRUPTIONS.value
        self._was_away = False
        self.busy = False
        """Whether somebody is still to be looked up; for tests, and for the curious."""

    def __len__(self) -> int:
        return sum(len(each) for each in self._users.values())

    def register(
        self, user: Any, session_key: str | None, on_change: Callable[[Reason], None]
    ) -> Registration | None:
        """Watch a connection until it cancels; to be called in the event loop.

        It is looked up soon after, in one batch with others, since something may have
        changed between its log-in and now.

        Args:
            user: whose connection it is, as loaded when it was let in.
            session_key: of the session that said so; None or empty where something
                else did, a token.
            on_change: told why, in the event loop; must return at once.

        Returns:
            What to cancel; None for somebody whom the database does not know (anonymous,
            or another kind of object), of whom nothing can be found out.
        """
        user = _real(user)
        if not isinstance(user, get_user_model()) or user.pk is None:
            return None
        registration = Registration(
            user,
            str(user.pk),
            session_key or "",
            on_change,
            AccountState.of(user),
            _watch=self,
        )
        self._users[registration.user_id].add(registration)
        if session_key:
            self._sessions[session_reference(session_key)].add(registration)
        self._look_at([registration.user_id])
        if self._task is None:
            # In a context of its own: the first connection's threads end with it.
            self._task = self._loop.create_task(
                self._run(), context=contextvars.Context()
            )
        return registration

    def heard(self, message: dict[str, Any]) -> None:
        """Take an ``announcement``; may be called from any thread."""
        with contextlib.suppress(RuntimeError):  # that loop is closed
            self._loop.call_soon_threadsafe(self._take, message)

    async def close(self) -> None:
        """Watch nobody any more, and end the task."""
        self._users.clear()
        self._sessions.clear()
        task = self._stop()
        if task is not None:
            await asyncio.wait([task])

    def _discard(self, registration: Registration) -> None:
        places = [(self._users, registration.user_id)]
        if registration.session_key:
            reference = session_reference(registration.session_key)
            places.append((self._sessions, reference))
        for index, key in places:
            index[key].discard(registration)
            if not index[key]:
                del index[key]
        if not self._users:
            self._stop()

    def _stop(self) -> asyncio.Task[None] | None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
        self._due.clear()
        self._endings.clear()
        self.busy = False
        return task

    def _take(self, message: dict[str, Any]) -> None:
        for reference in message.get("sessions", ()):
            for registration in list(self._sessions.get(reference, ())):
                self._tell(registration, Reason.LOGGED_OUT)
        if message.get("everybody"):
            known = list(self._users)
        else:
            known = [each for each in message.get("users", ()) if each in self._users]
        if message.get("rights"):
            now = self._clock()
            for registration in [r for each in known for r in self._users[each]]:
                since = registration.known_since
                registration.suspect = since is None or now < since + _DELAY
        self._look_at(known)

    def _look_at(self, user_ids: Iterable[str]) -> None:
        self._due.update(user_ids)
        if self._due:
            self.busy = True
            self._news.set()

    # The task

    async def _run(self) -> None:
        pool = threads.default_pool(conf.current().sync_threads)
        async with threads.isolated(pool) as thread, self._listening():
            self._next_round = self._clock() + self._until_next_round()
            while True:
                await self._pause()
                now = self._clock()
                if now >= self._next_round:
                    self._look_at(self._users)
                    self._next_round = now + self._until_next_round()
                for key, (ending, user_id) in list(self._endings.items()):
                    if ending <= now:
                        del self._endings[key]
                        self._look_at([user_id])
                looked = await self._look()
                if thread is not None:
                    thread.release()
                if not looked:
                    await asyncio.sleep(_RETRY)

    def _until_next_round(self) -> float:
        return self._interval * (1 + self._jitter() / 5)

    async def _pause(self) -> None:
        """Wait for something to do: an announcement, a session's end, the next round."""
        endings = (ending for ending, _ in self._endings.values())
        until = min([self._next_round, *endings])
        try:
            async with asyncio.timeout(max(until - self._clock(), 0)):
                await self._news.wait()
        except TimeoutError:
            return
        await asyncio.sleep(self._settle)

    async def _look(self) -> bool:
        """Look up all who are due; False when that did not work."""
        self._news.clear()
        while self._due:
            batch = [self._due.pop() for _ in range(min(_BATCH, len(self._due)))]
            watched = [each for key in batch for each in self._users.get(key, ())]
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
                self._look_at(batch)
                return False
            self._judge(watched, found)
        self.busy = False
        return True

    def _judge(self, watched: list[Registration], found: Found) -> None:
        now = self._clock()
        for registration in watched:
            user, standing = found.users.get(registration.user_id, (None, None))
            reason = registration.standing.change_to(standing)
            if reason is None and registration.suspect:
                reason = Reason.PERMISSIONS_CHANGED
            registration.suspect = False
            if registration.known_since is None:
                registration.known_since = now
            if reason is None or not reason.final:
                reason = _session_ended(registration, found, now) or reason
            if user is not None and standing is not None:
                registration.standing = standing
                if reason is not None:
                    renew(registration.user, user)
            if reason is not None:
                self._tell(registration, reason)
            self._note_ending(registration, found)

    def _note_ending(self, registration: Registration, found: Found) -> None:
        ending = found.sessions.get(registration.session_key)
        if ending is not None and registration.watched and ending < self._next_round:
            self._endings[registration.session_key] = (ending, registration.user_id)

    def _tell(self, registration: Registration, reason: Reason) -> None:
        if not registration.watched:
            return  # it ended meanwhile
        if reason.final:
            registration.cancel()
        try:
            registration.on_change(reason)
        except Exception:
            logger.exception(
                "a connection of user %s could not be told that it is %s",
                registration.user_id,
                reason.value,
            )

    # What others announce

    @asynccontextmanager
    async def _listening(self) -> AsyncIterator[None]:
        layer = self._layer()
        if layer is None:
            yield
            return
        listener = self._loop.create_task(self._listen(layer))
        try:
            yield
        finally:
            listener.cancel()
            await asyncio.wait([listener])

    async def _listen(self, layer: Any) -> None:
        """Hear announcements until cancelled, also after the broker was away."""
        while True:
            channel = await layer.new_channel()
            try:
                await self._read(layer, channel)
            except Exception:
                if self._hears is not False:
                    logger.exception(
                        "cannot hear of changes of users; until the layer is back they "
                        "are noticed every %g s only",
                        self._interval,
                    )
                self._hears = False
            await asyncio.sleep(_RETRY)

    async def _next(self, layer: Any, mailbox: Any) -> dict[str, Any]:
        """The next announcement; a gap where some may have failed to be sent.

        Nothing is left in the broker of what nobody could send while it was away, so
        everybody is looked at when it is back.
        """
        while True:
            interruptions = metrics.LAYER_INTERRUPTIONS.value
            if interruptions != self._interruptions or not layer.ready:
                self._interruptions = interruptions
                self._was_away = True
            if self._was_away and layer.ready:
                self._was_away = False
                return {"type": "layer.gap"}
            message = await _within(_ATTENTION, mailbox.get())
            if message is not None:
                return cast("dict[str, Any]", message)

    async def _read(self, layer: Any, channel: str) -> None:
        """Hear announcements until something breaks."""
        own = getattr(layer, "attach", None)
        mailbox = None if own is None else own(channel)
        try:
            await layer.group_add(GROUP, channel)
            self._hears = True
            # What was announced before that, nobody heard.
            self._look_at(self._users)
            while True:
                if mailbox is None:
                    message = await layer.receive(channel)
                else:
                    message = await self._next(layer, mailbox)
                if message.get("type") == "layer.gap":
                    self._look_at(self._users)
                else:
                    self._take(message)
        finally:
            if mailbox is None:
                await layer.group_discard(GROUP, channel)
            else:
                await layer.detach(mailbox)


async def _within(seconds: float, work: Coroutine[Any, Any, T]) -> T | None:
    """What ``work`` returns; None when it takes longer, and then it is cancelled."""
    try:
        async with asyncio.timeout(seconds):
            return await work
    except TimeoutError:
        return None


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


def _real(user: Any) -> Any:
    """What a lazy user stands for, so that it is not the stand-in that is renewed."""
    if issubclass(type(user), LazyObject):
        return user._wrapped  # noqa: SLF001 (how a lazy object is looked into)
    return user
