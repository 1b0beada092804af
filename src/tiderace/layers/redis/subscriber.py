"""Subscribes to pub/sub channels of Redis and yields their messages across reconnects.

There is one connection, or in a cluster with sharded pub/sub one to each node that owns
slots of subscribed channels. When slots move, the subscriptions follow.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Collection
from typing import Any

import hiredis

from tiderace import metrics
from tiderace.layers.backoff import backoff
from tiderace.layers.redis.commands import ACCESS_ADVICE, is_denied
from tiderace.layers.redis.connection import (
    ConnectionLost,
    RedisConnection,
    retrieve_exception,
)
from tiderace.layers.redis.slots import Address, SlotMap
from tiderace.runtime.forks import after_fork, keep_alive

Messages = list[tuple[bytes, bytes]]
"""Messages as channel and payload."""

_POLL_INTERVAL = 0.25  # seconds between two checks whether another loop still runs

logger = logging.getLogger("tiderace.layers")


class Subscriber:
    """Yields what is published on the subscribed channels.

    ``subscribe`` and ``unsubscribe`` may be called from any event loop; ``messages``
    belongs to one at a time.

    Args:
        host: one entry of ``hosts``, decoded.
        timeout: seconds to wait for a reply of the server.
    """

    def __init__(self, host: dict[str, Any], *, timeout: float) -> None:
        self._host = host
        self._timeout = timeout
        self._start_empty()
        after_fork(self._forget_parent)

    def _start_empty(self) -> None:
        # Any thread may change or copy it: each is one step under the GIL.
        self._channels: set[bytes] = set()
        self._session: _SubscriberSession | None = None

    def _forget_parent(self) -> None:
        keep_alive(self._session)
        self._start_empty()

    @property
    def is_connected(self) -> bool:
        """Whether the server has confirmed every subscription."""
        return self._session is not None and self._session.is_connected

    async def subscribe(self, channels: Collection[bytes]) -> None:
        """Subscribe to ``channels``; return when the server has confirmed it.

        While disconnected it returns at once, and the subscription follows with the
        next connection.

        Raises:
            ConnectionLost: when the event loop that reads does not respond.
            hiredis.ReplyError: when the server refuses.
        """
        self._channels.update(channels)
        await self._synchronize(channels)

    async def unsubscribe(self, channels: Collection[bytes]) -> None:
        """Unsubscribe from ``channels``.

        Raises:
            ConnectionLost: when the event loop that reads does not respond.
        """
        self._channels.difference_update(channels)
        await self._synchronize(channels)

    async def messages(self) -> AsyncGenerator[Messages | None, None]:
        """Yield batches of messages in order, and None after each (re)connect."""
        session = _SubscriberSession(
            self._channels, SlotMap(self._host, timeout=self._timeout)
        )
        self._session = session
        try:
            async with contextlib.aclosing(session.messages()) as batches:
                async for batch in batches:
                    yield batch
        finally:
            if self._session is session:
                self._session = None
            await session.close()

    def drop_connections(self) -> None:
        """Close the connections as a network failure would; for tests."""
        if self._session is not None:
            for connection in self._session.connections.values():
                connection.close()

    async def _synchronize(self, channels: Collection[bytes]) -> None:
        """Apply the changes to ``channels`` in the event loop of the session."""
        session = self._session
        if session is None or not channels:
            return
        if session.loop is asyncio.get_running_loop():
            await session.synchronize(channels)
            return
        if not session.loop.is_running():
            return  # the next session begins with all channels
        future = asyncio.run_coroutine_threadsafe(
            session.synchronize(channels), session.loop
        )
        waiting = asyncio.ensure_future(asyncio.wrap_future(future))
        waited = 0.0
        while not (await asyncio.wait([waiting], timeout=_POLL_INTERVAL))[0]:
            waited += _POLL_INTERVAL
            if waited > self._timeout or not session.loop.is_running():
                waiting.cancel()
                if not session.loop.is_running():
                    return
                raise ConnectionLost(
                    "the event loop that reads from the broker does not respond"
                )
        await waiting


class _SubscriberSession:
    """The connections of one run of ``Subscriber.messages``, in one event loop."""

    def __init__(self, channels: set[bytes], slots: SlotMap) -> None:
        self.loop = asyncio.get_running_loop()
        self.connections: dict[Address | None, RedisConnection] = {}
        # Whether the server has confirmed every subscription.
        self.is_connected = False
        self._channels = channels
        self._slots = slots
        # The connection of each subscription, and the future of its confirmation.
        self._subscriptions: dict[
            bytes, tuple[RedisConnection, asyncio.Future[None]]
        ] = {}
        self._reconnected = False
        self._readable = asyncio.Event()
        self._reconnect_needed = asyncio.Event()
        metrics.BROKERS_AWAY.add()
        self._reconnecting = self.loop.create_task(self._reconnect_when_needed())
        self._reconnecting.add_done_callback(lambda _: self._readable.set())

    async def messages(self) -> AsyncGenerator[Messages | None, None]:
        while True:
            await self._readable.wait()
            self._readable.clear()
            if self._reconnecting.done():
                self._reconnecting.result()
            for address, connection in list(self.connections.items()):
                if batch := self._take_messages(connection):
                    yield batch
                if connection.lost:
                    self._remove_connection(address, connection)
            if self._reconnected:
                self._reconnected = False
                yield None

    async def close(self) -> None:
        self._reconnecting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(self._reconnecting, return_exceptions=True)
        if not self.is_connected:
            metrics.BROKERS_AWAY.add(-1)
        self.is_connected = False
        for connection in self.connections.values():
            connection.notify = lambda: None
            connection.close()

    async def synchronize(self, channels: Collection[bytes]) -> None:
        """Subscribe to those of ``channels`` in the channel set, and leave the others."""
        if not self.is_connected:
            return  # reconnecting subscribes to the whole set
        try:
            pending = self._send_commands(channels)
        except ConnectionLost:
            self._reconnect()
            return
        # Not gather: if this call is cancelled, it would cancel futures of other callers.
        for confirmed in (await asyncio.wait(pending))[0] if pending else ():
            error = confirmed.exception()
            if isinstance(error, hiredis.ReplyError) and not _is_transient(error):
                raise error
            if error is not None:
                # The connection is lost, or the channel has moved to another node.
                self._slots.invalidate()
                self._reconnect()

    def _send_commands(self, channels: Collection[bytes]) -> list[asyncio.Future[None]]:
        """Send what subscribes to and unsubscribes from ``channels``.

        Returns:
            The confirmations that are pending, earlier ones of these channels included.

        Raises:
            ConnectionLost: when a node has no connection.
        """
        wanted = self._channels.intersection(channels)
        known = self._subscriptions
        pending = [known[channel][1] for channel in wanted if channel in known]
        missing = [channel for channel in wanted if channel not in known]
        for address, group in self._slots.group_by_node(missing):
            connection = self.connections.get(address)
            if connection is None or connection.lost:
                raise ConnectionLost("there is no connection to that server")
            confirmed = self._send(connection, "SUBSCRIBE", group)
            for channel in group:
                known[channel] = (connection, confirmed)
            pending.append(confirmed)
        unwanted: dict[RedisConnection, list[bytes]] = {}
        for channel in channels:
            if channel not in wanted and channel in known:
                unwanted.setdefault(known.pop(channel)[0], []).append(channel)
        for connection, group in unwanted.items():
            pending += [
                self._send(connection, "UNSUBSCRIBE", part)
                for part in self._slots.group_by_command(group)
            ]
        return [confirmed for confirmed in pending if not _is_confirmed(confirmed)]

    def _send(
        self, connection: RedisConnection, command: str, channels: list[bytes]
    ) -> asyncio.Future[None]:
        confirmed = connection.execute_pubsub(self._slots.command(command), channels)
        confirmed.add_done_callback(retrieve_exception)
        return confirmed

    async def _reconnect_when_needed(self) -> None:
        """Connect at first, and again each time a reconnect is needed."""
        tries = 0
        while True:
            try:
                await self._connect()
            except (ConnectionLost, hiredis.ReplyError) as error:
                if tries == 0:
                    denied = is_denied(error) or is_denied(error.__cause__)
                    logger.warning(
                        "the layer's broker is away: %s%s; trying on",
                        error,
                        f"; {ACCESS_ADVICE}" if denied else "",
                        extra={"reason": "broker_away"},
                    )
                tries += 1
                self._slots.invalidate()
                await asyncio.sleep(backoff(tries))
                continue
            if tries:
                logger.warning(
                    "the layer's broker is back after %d tries",
                    tries,
                    extra={"reason": "broker_back"},
                )
            tries = 0
            await self._reconnect_needed.wait()

    async def _connect(self) -> None:
        """Open the connections, and return when every subscription is confirmed.

        Raises:
            ConnectionLost: when a server cannot be reached.
            hiredis.ReplyError: when it refuses a subscription.
        """
        self._reconnect_needed.clear()
        while True:
            await self._slots.refresh()
            # Subscriptions that failed, were lost or have moved are made again.
            for channel, (connection, confirmed) in list(self._subscriptions.items()):
                failed = confirmed.done() and not _is_confirmed(confirmed)
                if connection.lost or failed:
                    del self._subscriptions[channel]
            await self._open_connections()
            pending = self._send_commands(
                self._channels.copy() | self._subscriptions.keys()
            )
            if not pending and not self._reconnect_needed.is_set():
                break
            self._reconnect_needed.clear()
            for confirmed in (await asyncio.wait(pending))[0] if pending else ():
                confirmed.result()
        self.is_connected = True
        metrics.BROKERS_AWAY.add(-1)
        self._reconnected = True
        self._readable.set()

    async def _open_connections(self) -> None:
        for address in self._slots.addresses(self._channels.copy()):
            connection = self.connections.get(address)
            if connection is None or connection.lost:
                connection = await self._slots.connect(address)
                connection.notify = self._readable.set
                self.connections[address] = connection

    def _take_messages(self, connection: RedisConnection) -> Messages:
        messages = connection.take_messages()
        for channel, payload in messages:
            if payload is None:
                self._end_subscription(channel, connection)
        return [(channel, data) for channel, data in messages if data is not None]

    def _end_subscription(self, channel: bytes, connection: RedisConnection) -> None:
        subscription = self._subscriptions.get(channel)
        if subscription is not None and subscription[0] is connection:
            del self._subscriptions[channel]
            self._slots.invalidate()
            self._reconnect()

    def _remove_connection(
        self, address: Address | None, connection: RedisConnection
    ) -> None:
        if self.connections.get(address) is connection:
            del self.connections[address]
        metrics.LAYER_INTERRUPTIONS.add()
        if self.is_connected:
            logger.warning(
                "the connection to the layer's broker broke; opening another",
                extra={"reason": "broker_lost"},
            )
        self._slots.invalidate()
        self._reconnect()

    def _reconnect(self) -> None:
        if self.is_connected:
            self.is_connected = False
            metrics.BROKERS_AWAY.add()
        self._reconnect_needed.set()


def _is_transient(error: Exception) -> bool:
    """Return whether this or another node will accept the subscription soon."""
    return str(error).startswith(("MOVED", "CLUSTERDOWN", "LOADING", "MASTERDOWN"))


def _is_confirmed(confirmed: asyncio.Future[None]) -> bool:
    return (
        confirmed.done() and not confirmed.cancelled() and confirmed.exception() is None
    )
