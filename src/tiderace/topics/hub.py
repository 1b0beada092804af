"""The topic clients of this process, and who keeps their presence.

It knows connections by what they are called, and layers by what they offer; it serves
nobody itself.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import weakref
from collections.abc import Iterator
from typing import Any

import msgspec
from django.conf import settings
from django.utils.crypto import constant_time_compare, salted_hmac

from tiderace import conf
from tiderace.layers import get_channel_layer
from tiderace.presence.tracker import Member, Presence, PresenceTracker
from tiderace.protocol import codes
from tiderace.protocol.session import Refused
from tiderace.ratelimit import Rate, TokenBucket
from tiderace.runtime.lifespan import on_shutdown
from tiderace.topics.client.served import Served
from tiderace.topics.client.single_flight import SingleFlight
from tiderace.topics.names import events_group
from tiderace.topics.topic import UnknownTopic, declared
from tiderace.topics.user_code import call_hook

__all__ = ["TopicHub", "close", "current", "is_node"]

_NODE_SALT = "tiderace.topics.hub.node"


class TopicHub:
    """What the topic clients of one event loop share."""

    def __init__(self) -> None:
        # How other processes name it, for clients whose commands come by themselves.
        name = secrets.token_hex(8)
        # Signed, so that nobody can make us look for processes that never were.
        self.node = f"{name}-{_node_mac(name, settings.SECRET_KEY)}"
        # Publications with a key that are under way.
        self.once = SingleFlight()
        self._conductors: dict[str, Served] = {}
        self._sessions: dict[bytes, Served] = {}
        self._keepers: dict[str, PresenceTracker] = {}
        self._connects: tuple[Any, TokenBucket] | None = None

    def __iter__(self) -> Iterator[Served]:
        return iter(list(self._conductors.values()))

    def __len__(self) -> int:
        return len(self._conductors)

    def add(self, conductor: Served) -> None:
        """A client is being served."""
        if not self._conductors:
            self._start_keepers()
        self._conductors[conductor.client] = conductor
        if conductor.transport.emulated:
            self._sessions[_digest(conductor.secret)] = conductor

    def discard(self, conductor: Served) -> None:
        """It is no longer."""
        self._conductors.pop(conductor.client, None)
        self._sessions.pop(_digest(conductor.secret), None)

    def by_session(self, secret: str) -> Served | None:
        """The client that was told this secret, if it is served here."""
        # By its digest, since how long a look-up takes must not tell anything of it.
        conductor = self._sessions.get(_digest(secret))
        if conductor is None or not constant_time_compare(conductor.secret, secret):
            return None
        return conductor

    def keeper(self, alias: str) -> PresenceTracker:
        """Who keeps presence on a layer for this process."""
        keeper = self._keepers.get(alias)
        if keeper is None:
            layer = get_channel_layer(alias)
            keeper = self._keepers[alias] = PresenceTracker(
                layer.presence,
                _announcer(layer),
                _hook,
                refresh=conf.current().presence_refresh,
            )
        return keeper

    def _start_keepers(self) -> None:
        # Also where nobody enters: the process of those who did may have been killed.
        for alias in {
            kind.layer for kind in declared if kind.presence is not Presence.OFF
        }:
            self.keeper(alias).start()

    def admit(self) -> None:
        """Take one connection from the allowance of the setting ``CONNECTS``.

        Raises:
            Refused: when it is used up, so that the client tries again later.
        """
        rate = conf.current().topics.connects
        if rate is None:
            return
        if self._connects is None or self._connects[0] != rate:
            self._connects = rate, TokenBucket(Rate.parse(rate))
        if self._connects[1].take():
            raise Refused(codes.TOO_MANY_REQUESTS)

    async def close(self) -> None:
        """End what keeps presence, in the orderly way."""
        keepers, self._keepers = list(self._keepers.values()), {}
        for keeper in keepers:
            await keeper.close()


def is_node(name: str) -> bool:
    """Whether some process of this site is, or was, called ``name``."""
    head, _, mac = name.partition("-")
    return any(
        constant_time_compare(mac, _node_mac(head, secret))
        for secret in (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)
    )


def _node_mac(name: str, secret: str | bytes) -> str:
    mac = salted_hmac(_NODE_SALT, name, secret=secret, algorithm="sha256")
    return mac.hexdigest()[:16]


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def _announcer(layer: Any) -> Any:
    async def announce(topic: str, change: str, member: Member | None) -> None:
        """Say in the topic's events that somebody came or went, or that many did."""
        if member is None:
            await layer.group_send(events_group(topic), {"type": "topic.changed"})
            return
        info: dict[str, Any] = {"user": member.user, "client": member.client}
        if member.info is not None:
            info["conn_info"] = msgspec.json.decode(member.info)
        kind = "topic.joined" if change == "join" else "topic.left"
        await layer.group_send(events_group(topic), {"type": kind, "info": info})

    return announce


async def _hook(topic: str, change: str, user_id: str) -> None:
    """Call the topic's own ``user_joined`` or ``user_left``."""
    try:
        resolved = declared.resolve(topic)
    except UnknownTopic:
        return  # it was declared when somebody came
    hook = resolved.user_joined if change == "joined" else resolved.user_left
    if hook is not None:
        await call_hook(hook, user_id)


_by_loop: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, TopicHub] = (
    weakref.WeakKeyDictionary()
)


@on_shutdown
async def close() -> None:
    """End what the topic clients of this event loop shared, after the last of them."""
    process = _by_loop.pop(asyncio.get_running_loop(), None)
    if process is not None:
        await process.close()


def current() -> TopicHub:
    """The one of the running event loop."""
    loop = asyncio.get_running_loop()
    process = _by_loop.get(loop)
    if process is None:
        process = _by_loop[loop] = TopicHub()
    return process
