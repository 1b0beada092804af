"""Free ports for servers that tests start."""

from __future__ import annotations

import contextlib
import secrets
import socket

__all__ = ["free_port"]

# Below the ports of outgoing connections, one of which might get the port before the
# server does. So is the port 10,000 above, the bus of a Redis Cluster.
_FIRST, _LAST = 12_000, 22_000


def free_port() -> int:
    """Return a port that was free a moment ago, as was the one 10,000 above."""
    while True:
        port = _FIRST + secrets.randbelow(_LAST - _FIRST)
        with (
            socket.socket() as probe,
            socket.socket() as bus,
            contextlib.suppress(OSError),
        ):
            probe.bind(("127.0.0.1", port))
            bus.bind(("127.0.0.1", port + 10_000))
            return port
