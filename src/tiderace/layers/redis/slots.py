"""Maps pub/sub channels to the nodes of a cluster, and connects to them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from redis.crc import key_slot

from tiderace.layers.redis import hosts as hosts_
from tiderace.layers.redis.connection import ConnectionLost, RedisConnection, connect

Address = tuple[str, int]

_MAX_CHANNELS = 1000  # in one SUBSCRIBE
_SLOTS = 16384


class SlotMap:
    """Decides which node serves a pub/sub channel.

    Pub/sub is sharded in a cluster of Redis 7 or newer: each channel belongs to the node
    that owns its slot. Otherwise one connection, under the address None, serves all
    channels.

    Args:
        host: one entry of ``hosts``, decoded.
        timeout: seconds to connect, and for a reply.
    """

    def __init__(self, host: dict[str, Any], *, timeout: float) -> None:
        self._host = host
        self._timeout = timeout
        # None until a node was queried.
        self._sharded: bool | None = None if hosts_.is_cluster(host) else False
        self._nodes: list[Address] = []
        self._owners: list[Address | None] | None = None

    def command(self, name: str) -> str:
        """Return the command's name with ``S`` before it where pub/sub is sharded."""
        return f"S{name}" if self._sharded else name

    def invalidate(self) -> None:
        """Make ``refresh`` query again which node owns which slot."""
        self._owners = None

    async def refresh(self) -> None:
        """Query which node owns which slot, unless that is known.

        Raises:
            ConnectionLost: when no node replies.
        """
        if self._sharded is False or self._owners is not None:
            return
        connection = await self._connect_to_any_node()
        try:
            if self._sharded is None:
                [info] = await connection.execute("COMMAND", "INFO", "SSUBSCRIBE") or [
                    None
                ]
                self._sharded = info is not None
            slots = await connection.execute("CLUSTER", "SLOTS")
            address = connection.peer_address
        finally:
            connection.close()
        owners: list[Address | None] = [None] * _SLOTS
        for first, last, primary, *_ in slots:
            # A node without a configured address leaves out its own.
            name = primary[0].decode() if primary[0] else address
            owners[first : last + 1] = [(name, primary[1])] * (last + 1 - first)
        self._owners = owners
        self._nodes = sorted({owner for owner in owners if owner is not None})

    def group_by_node(
        self, channels: Collection[bytes]
    ) -> Iterator[tuple[Address | None, list[bytes]]]:
        """Yield the node and the channels of each command that covers ``channels``.

        Raises:
            ConnectionLost: when no node owns the slot of one.
        """
        for group in self.group_by_command(channels):
            yield self._owner(key_slot(group[0])) if self._sharded else None, group

    def group_by_command(self, channels: Collection[bytes]) -> Iterator[list[bytes]]:
        """Yield the channels that go into one command: of one slot, or up to 1000."""
        if not self._sharded:
            ordered = sorted(channels)
            for start in range(0, len(ordered), _MAX_CHANNELS):
                yield ordered[start : start + _MAX_CHANNELS]
            return
        by_slot: dict[int, list[bytes]] = {}
        for channel in channels:
            by_slot.setdefault(key_slot(channel), []).append(channel)
        yield from by_slot.values()

    def addresses(self, channels: Collection[bytes]) -> set[Address | None]:
        """Return the nodes that serve ``channels``.

        Raises:
            ConnectionLost: when no node owns the slot of one.
        """
        if not self._sharded:
            return {None}
        return {self._owner(key_slot(channel)) for channel in channels}

    async def connect(self, address: Address | None) -> RedisConnection:
        """Open a connection to a node; for None, to the server or any node that replies.

        Raises:
            ConnectionLost: when it cannot be opened.
        """
        if address is None and hosts_.is_cluster(self._host):
            return await self._connect_to_any_node()
        return await connect(
            lambda: hosts_.make_connection(
                self._host, timeout=self._timeout, address=address
            ),
            timeout=self._timeout,
        )

    async def _connect_to_any_node(self) -> RedisConnection:
        reason = ConnectionLost("no node of the cluster is known")
        for address in (*self._nodes, *hosts_.startup_nodes(self._host)):
            try:
                return await self.connect(address)
            except ConnectionLost as error:
                reason = error
        raise reason

    def _owner(self, slot: int) -> Address:
        owner = self._owners[slot] if self._owners else None
        if owner is None:
            raise ConnectionLost(f"no node of the cluster is known to own slot {slot}")
        return owner
