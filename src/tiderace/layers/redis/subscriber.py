"""Hears pub/sub channels of Redis for as long as it is asked, over links that break.

One link, or in a cluster with sharded pub/sub one to each node that owns slots of what
is wanted, following the slots when they move. It knows channels and payloads as bytes,
and nothing of groups, streams and layers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Iterator
from typing import Any

import hiredis
from redis.crc import key_slot

from tiderace import metrics
from tiderace.layers.redis import hosts as hosts_
from tiderace.layers.redis.connection import ConnectionLost, RedisConnection, connect

__all__ = ["Address", "Subscriber"]

Address = tuple[str, int]
Pushed = list[tuple[bytes, bytes]]

_AT_ONCE = 1000  # channels in one SUBSCRIBE
_SLOTS = 16384
_LOOK = 0.25  # seconds between two looks at whether another loop still runs

logger = logging.getLogger("tiderace.layers")


class Subscriber:
    """Yields what is published on the channels that are wanted.

    ``want`` and ``unwant`` may be called from any event loop; ``batches`` belongs to
    one at a time.

    Args:
        host: one entry of ``hosts``, decoded.
        timeout: seconds the server may be silent when it owes an answer.
        pause: seconds before the next try, by the number of tries.
    """

    def __init__(
        self, host: dict[str, Any], *, timeout: float, pause: Callable[[int], float]
    ) -> None:
        self.host = host
        self.timeout = timeout
        self.pause = pause
        self._start_afresh()

    def _start_afresh(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._wanted: set[bytes] = set()
        self._session: _Session | None = None

    @property
    def hearing(self) -> bool:
        """Whether everything that is wanted is heard now."""
        self._check_fork()
        return self._session is not None and self._session.settled

    def wanted(self, channels: Iterable[bytes] | None = None) -> set[bytes]:
        """All channels that are wanted, or those of ``channels`` that are."""
        with self._lock:
            return set(self._wanted) if channels is None else self._wanted & {*channels}

    async def want(self, channels: Collection[bytes]) -> None:
        """Hear ``channels``; returns when it is so, or is noted while cut off.

        Raises:
            LinkLost: when the event loop that reads does not answer.
            hiredis.ReplyError: when the server refuses.
        """
        self._check_fork()
        with self._lock:
            self._wanted.update(channels)
            session = self._session
        await self._tell(session, channels)

    async def unwant(self, channels: Collection[bytes]) -> None:
        """Hear ``channels`` no more.

        Raises:
            LinkLost: when the event loop that reads does not answer.
        """
        self._check_fork()
        with self._lock:
            self._wanted.difference_update(channels)
            session = self._session
        await self._tell(session, channels)

    async def batches(self) -> AsyncGenerator[Pushed | None, None]:
        """What arrives, in order; None when links were opened, again or at first."""
        self._check_fork()
        session = _Session(self)
        with self._lock:
            self._session = session
        try:
            async with contextlib.aclosing(session.batches()) as batches:
                async for batch in batches:
                    yield batch
        finally:
            if self._session is session:
                self._session = None
            await session.close()

    def cut(self) -> None:
        """Break the links, as a network would; for tests."""
        if self._session is not None:
            for link in self._session.links.values():
                link.close()

    async def _tell(
        self, session: _Session | None, channels: Collection[bytes]
    ) -> None:
        """Have the session do what is noted for ``channels`` by then."""
        if session is None or not channels:
            return
        if session.loop is asyncio.get_running_loop():
            await session.align(channels)
            return
        if not session.loop.is_running():
            return  # its successor will begin with all that is noted
        told = asyncio.run_coroutine_threadsafe(session.align(channels), session.loop)
        waiting = asyncio.ensure_future(asyncio.wrap_future(told))
        waited = 0.0
        while not (await asyncio.wait([waiting], timeout=_LOOK))[0]:
            waited += _LOOK
            if waited > self.timeout or not session.loop.is_running():
                waiting.cancel()
                if not session.loop.is_running():
                    return
                raise ConnectionLost(
                    "the event loop that hears the broker does not answer"
                )
        await waiting

    def _check_fork(self) -> None:
        # What a parent wanted and hears is nothing to its child.
        if os.getpid() != self._pid:
            # Kept: its end would take the parent's sockets off the epoll both share.
            _inherited.append(self._session)
            self._start_afresh()


_inherited: list[object] = []


class _Session:
    """The links of one event loop, from the first to the end of ``batches``."""

    def __init__(self, reader: Subscriber) -> None:
        self.loop = asyncio.get_running_loop()
        self.links: dict[Address | None, RedisConnection] = {}
        # Whether all that is wanted is heard; it is said as None when it becomes so.
        self.settled = False
        self._reader = reader
        self._map = _Map(reader)
        # Where each channel is heard, and the future of its subscription.
        self._heard: dict[bytes, tuple[RedisConnection, asyncio.Future[None]]] = {}
        self._opened = False
        self._arrived = asyncio.Event()
        self._disturbed = asyncio.Event()
        metrics.BROKERS_AWAY.add()
        self._steering = self.loop.create_task(self._steer())
        self._steering.add_done_callback(lambda _: self._arrived.set())

    async def batches(self) -> AsyncGenerator[Pushed | None, None]:
        """See ``Subscriber.batches``."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            if self._steering.done():
                self._steering.result()
            for address, link in list(self.links.items()):
                if batch := self._sorted_out(link):
                    yield batch
                if link.lost:
                    self._drop(address, link)
            if self._opened:
                self._opened = False
                yield None

    async def close(self) -> None:
        """Close the links."""
        self._steering.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(self._steering, return_exceptions=True)
        if not self.settled:
            metrics.BROKERS_AWAY.add(-1)
        self.settled = False
        for link in self.links.values():
            link.notify = _nobody
            link.close()

    async def align(self, channels: Collection[bytes]) -> None:
        """Subscribe to, or unsubscribe from, ``channels`` as they are wanted now."""
        if not self.settled:
            return  # whoever settles begins with what is wanted, and says so
        try:
            orders = self._order(channels)
        except ConnectionLost:
            self._disturb()
            return
        # Not gather: whoever is cancelled here must not cancel what others await too.
        for order in (await asyncio.wait(orders))[0] if orders else ():
            error = order.exception()
            if isinstance(error, hiredis.ReplyError) and not _passes(error):
                raise error
            if error is not None:
                # Either the link is gone or the channel is elsewhere now.
                self._map.forget()
                self._disturb()

    def _order(self, channels: Collection[bytes]) -> list[asyncio.Future[None]]:
        """Send what brings ``channels`` in line; futures for what is not confirmed.

        Raises:
            LinkLost: when a node to be asked has no link.
        """
        wanted = self._reader.wanted(channels)
        orders = [self._heard[each][1] for each in wanted if each in self._heard]
        missing = [each for each in wanted if each not in self._heard]
        for address, group in self._map.divide(missing):
            link = self.links.get(address)
            if link is None or link.lost:
                raise ConnectionLost("there is no connection to that server")
            order = link.subscription(f"{self._map.kind}SUBSCRIBE", group)
            order.add_done_callback(_seen)
            for channel in group:
                self._heard[channel] = (link, order)
            orders.append(order)
        by_link: dict[RedisConnection, list[bytes]] = {}
        for channel in channels:
            if channel not in wanted and channel in self._heard:
                by_link.setdefault(self._heard.pop(channel)[0], []).append(channel)
        for link, group in by_link.items():
            for part in self._map.portions(group):
                order = link.subscription(f"{self._map.kind}UNSUBSCRIBE", part)
                order.add_done_callback(_seen)
                orders.append(order)
        return [order for order in orders if not _well(order)]

    async def _steer(self) -> None:
        """Hear what is wanted, again whenever something has disturbed it."""
        tries = 0
        while True:
            try:
                await self._settle()
            except (ConnectionLost, hiredis.ReplyError) as error:
                if tries == 0:
                    logger.warning(
                        "the layer's broker is away: %s; trying on",
                        error,
                        extra={"reason": "broker_away"},
                    )
                tries += 1
                self._map.forget()
                await asyncio.sleep(self._reader.pause(tries))
                continue
            if tries:
                logger.warning(
                    "the layer's broker is back after %d tries",
                    tries,
                    extra={"reason": "broker_back"},
                )
            tries = 0
            await self._disturbed.wait()

    async def _settle(self) -> None:
        self._disturbed.clear()
        while True:
            await self._map.learn()
            # What was refused, lost or moved is to be asked for again.
            for channel, (link, order) in list(self._heard.items()):
                if link.lost or (order.done() and not _well(order)):
                    del self._heard[channel]
            wanted = self._reader.wanted()
            await self._connect(self._map.addresses(wanted))
            orders = self._order(self._reader.wanted() | self._heard.keys())
            if not orders and not self._disturbed.is_set():
                break
            self._disturbed.clear()
            for order in (await asyncio.wait(orders))[0] if orders else ():
                order.result()
        self.settled = True
        metrics.BROKERS_AWAY.add(-1)
        self._opened = True
        self._arrived.set()

    async def _connect(self, addresses: Collection[Address | None]) -> None:
        for address in addresses:
            link = self.links.get(address)
            if link is not None and not link.lost:
                continue
            link = await self._map.connect(address)
            link.notify = self._arrived.set
            self.links[address] = link

    def _sorted_out(self, link: RedisConnection) -> Pushed:
        pushed = link.take_pushed()
        for channel, payload in pushed:
            if payload is None and self._heard.get(channel, (None,))[0] is link:
                del self._heard[channel]
                self._map.forget()
                self._disturb()
        return [(channel, data) for channel, data in pushed if data is not None]

    def _drop(self, address: Address | None, link: RedisConnection) -> None:
        if self.links.get(address) is link:
            del self.links[address]
        metrics.LAYER_INTERRUPTIONS.add()
        if self.settled:
            logger.warning(
                "the connection to the layer's broker broke; opening another",
                extra={"reason": "broker_lost"},
            )
        self._map.forget()
        self._disturb()

    def _disturb(self) -> None:
        if self.settled:
            self.settled = False
            metrics.BROKERS_AWAY.add()
        self._disturbed.set()


class _Map:
    """Which server is to be asked for which channel."""

    def __init__(self, reader: Subscriber) -> None:
        self._reader = reader
        # "S" where pub/sub is sharded.
        self.kind = ""
        self._sharded: bool | None = None
        if not hosts_.is_cluster(reader.host):
            self._sharded = False
        self._nodes: list[Address] = []
        self._owners: list[Address | None] | None = None

    def forget(self) -> None:
        """It may be wrong: ask again."""
        self._owners = None

    def divide(
        self, channels: Collection[bytes]
    ) -> Iterator[tuple[Address | None, list[bytes]]]:
        """Where to ask for ``channels``, in portions for one command.

        Raises:
            LinkLost: when nobody owns the slot of one.
        """
        for portion in self.portions(channels):
            sharded = self._sharded
            yield self._owner(key_slot(portion[0])) if sharded else None, portion

    def portions(self, channels: Collection[bytes]) -> Iterator[list[bytes]]:
        """``channels`` as one command takes them: those of a slot, or so many."""
        if not self._sharded:
            ordered = sorted(channels)
            for start in range(0, len(ordered), _AT_ONCE):
                yield ordered[start : start + _AT_ONCE]
            return
        by_slot: dict[int, list[bytes]] = {}
        for channel in channels:
            by_slot.setdefault(key_slot(channel), []).append(channel)
        yield from by_slot.values()

    def addresses(self, channels: Collection[bytes]) -> set[Address | None]:
        """The servers that have to be connected to hear ``channels``."""
        if not self._sharded:
            return {None}
        return {self._owner(key_slot(channel)) for channel in channels}

    def _owner(self, slot: int) -> Address:
        owner = self._owners[slot] if self._owners else None
        if owner is None:
            raise ConnectionLost(f"no node of the cluster is known to own slot {slot}")
        return owner

    async def connect(self, address: Address | None) -> RedisConnection:
        """A link to a server; without an address, to one that answers.

        Raises:
            LinkLost: when there is none.
        """
        if address is None and hosts_.is_cluster(self._reader.host):
            return await self._any()
        return await self._link(address)

    async def learn(self) -> None:
        """Ask who owns which slot, unless it is known.

        Raises:
            LinkLost: when no node answers.
        """
        if self._sharded is False or self._owners is not None:
            return
        link = await self._any()
        try:
            if self._sharded is None:
                [known] = await link.call("COMMAND", "INFO", "SSUBSCRIBE") or [None]
                self._sharded = known is not None
                self.kind = "S" if self._sharded else ""
            slots = await link.call("CLUSTER", "SLOTS")
            asked = link.peer
        finally:
            link.close()
        owners: list[Address | None] = [None] * _SLOTS
        for first, last, primary, *_ in slots:
            # A node that does not know its own name leaves it out.
            name = primary[0].decode() if primary[0] else asked
            owners[first : last + 1] = [(name, primary[1])] * (last + 1 - first)
        self._owners = owners
        self._nodes = sorted({owner for owner in owners if owner is not None})

    async def _any(self) -> RedisConnection:
        """A link to the first node that answers; the others are asked at once next."""
        reason = ConnectionLost("no node of the cluster is known")
        for address in (*self._nodes, *hosts_.startup_nodes(self._reader.host)):
            try:
                return await self._link(address)
            except ConnectionLost as error:
                reason = error
        raise reason

    async def _link(self, address: Address | None) -> RedisConnection:
        return await connect(
            lambda: hosts_.make_connection(
                self._reader.host, timeout=self._reader.timeout, address=address
            ),
            timeout=self._reader.timeout,
        )


def _passes(error: Exception) -> bool:
    """Whether the server means that it, or another one, will do it soon."""
    return str(error).startswith(("MOVED", "CLUSTERDOWN", "LOADING", "MASTERDOWN"))


def _well(order: asyncio.Future[None]) -> bool:
    return order.done() and not order.cancelled() and order.exception() is None


def _seen(order: asyncio.Future[None]) -> None:
    if not order.cancelled():
        order.exception()


def _nobody() -> None:
    """Nobody wants to know."""
