"""The topic clients of one event loop, and the state that they share."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
import weakref
from collections.abc import Iterator

from django.core.signing import BadSignature, Signer
from django.utils.crypto import constant_time_compare

from tiderace import cluster, conf, metrics
from tiderace.asgi import Scope, serving
from tiderace.ratelimit import Rate, TokenBucket
from tiderace.runtime import threads
from tiderace.runtime.connections import process_connections
from tiderace.runtime.lifespan import on_shutdown
from tiderace.runtime.single_flight import SingleFlight
from tiderace.topics.client.client import TopicClient
from tiderace.topics.client.context import ClientContext
from tiderace.topics.client.heartbeat import Heartbeat
from tiderace.topics.growing.feed import GrowingFeeds
from tiderace.topics.hooks import TopicHooks
from tiderace.topics.trackers import OccupiedTopics, PresenceTrackers
from tiderace.topics.transports.base import Transport


class TopicHub:
    """Serves the topic clients of one event loop."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.trackers = PresenceTrackers()
        self._growing = GrowingFeeds()
        self.occupied = OccupiedTopics(self.trackers)
        rate = conf.current().topics.connects
        # The rate limit of new connections; None for no limit.
        self.connects = None if rate is None else TokenBucket(Rate.parse(rate))
        self._publishing = SingleFlight()
        self._clients: dict[str, TopicClient] = {}
        self._heartbeats: dict[tuple[float, float], Heartbeat] = {}
        # The clients with emulated transports, by the digest of their secret.
        self._sessions: dict[bytes, TopicClient] = {}

    def __iter__(self) -> Iterator[TopicClient]:
        return iter(list(self._clients.values()))

    def __len__(self) -> int:
        return len(self._clients)

    async def serve(
        self, hooks: TopicHooks, scope: Scope, transport: Transport
    ) -> None:
        """Serve a client over ``transport`` until it ends."""
        if not await transport.accept():
            return
        context = ClientContext(
            hooks,
            scope,
            self.trackers,
            self._growing,
            self.occupied,
            self._publishing,
            self.connects,
            conf.current().topics,
            binary=transport.codec.binary,
        )
        node = secret = ""
        if transport.emulated:
            node = cluster.current().process
            secret = new_session(node)
        client = TopicClient(context, transport, node, secret)
        serving.set(scope)
        metrics.TOPIC_CONNECTIONS.add()
        process_connections.add(client)
        try:
            async with threads.isolated():
                self._add(client)
                heartbeat = self._heartbeat(context.settings)
                heartbeat.add(client)
                try:
                    await client.run()
                finally:
                    heartbeat.discard(client)
                    self._discard(client)
                    await client.clean_up()
        finally:
            process_connections.discard(client)
            metrics.TOPIC_CONNECTIONS.add(-1)

    def _heartbeat(self, settings: conf.TopicSettings) -> Heartbeat:
        times = settings.ping, settings.pong_timeout
        heartbeat = self._heartbeats.get(times)
        if heartbeat is None:
            loop = asyncio.get_running_loop()
            heartbeat = self._heartbeats[times] = Heartbeat(*times, loop)
        return heartbeat

    def _add(self, client: TopicClient) -> None:
        if not self._clients:
            self.trackers.start()
        self._clients[client.context.client_id] = client
        if client.transport.emulated:
            self._sessions[_digest(client.secret)] = client

    def _discard(self, client: TopicClient) -> None:
        del self._clients[client.context.client_id]
        if client.transport.emulated:
            del self._sessions[_digest(client.secret)]

    async def close(self) -> None:
        """Stop presence and the feeds of growing messages, after the last client."""
        await self.occupied.close()
        await self.trackers.close()
        await self._growing.close()

    def by_session(self, secret: str) -> TopicClient | None:
        """Return the client with this secret, if it is served here."""
        # Looked up by digest, so that the duration reveals nothing about the secret.
        client = self._sessions.get(_digest(secret))
        if client is None or not constant_time_compare(client.secret, secret):
            return None
        return client


def new_session(node: str) -> str:
    """Return a secret for a client of a process, signed so that it cannot be forged."""
    return _signer(node).sign(secrets.token_urlsafe(24))


def is_session(session: str, node: str) -> bool:
    """Return whether ``new_session`` of this site has returned the session for ``node``."""
    try:
        _signer(node).unsign(session)
    except BadSignature:
        return False
    return True


def _signer(node: str) -> Signer:
    return Signer(salt=f"tiderace.topics.hub.session:{node}")


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


_by_loop: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, TopicHub] = (
    weakref.WeakKeyDictionary()
)


@on_shutdown
async def close() -> None:
    """Close the hub of this event loop, after its last client."""
    hub = _by_loop.pop(asyncio.get_running_loop(), None)
    if hub is not None:
        await hub.close()


def current() -> TopicHub:
    """Return the hub of the running event loop."""
    loop = asyncio.get_running_loop()
    hub = _by_loop.get(loop)
    if hub is None:
        hub = _by_loop[loop] = TopicHub()
    return hub


def hubs() -> dict[asyncio.AbstractEventLoop, TopicHub]:
    """Return the hubs of this process by event loop."""
    return dict(_by_loop)
