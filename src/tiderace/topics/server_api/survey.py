"""Counts the topic clients and subscribers of every process, for the HTTP API."""

from __future__ import annotations

import fnmatch
import os
import socket
import time
from collections import Counter
from typing import Any

import msgspec

from tiderace import __version__, cluster
from tiderace.topics.hub import current, hubs

# Seconds in which other processes have to answer.
_TIMEOUT = 1.0


class Node(msgspec.Struct, omit_defaults=True):
    """The topic clients of one process."""

    uid: str
    name: str
    version: str
    num_clients: int
    num_users: int
    num_subs: int
    num_channels: int
    uptime: int
    """Seconds since it served its first topic client."""
    channels: dict[str, int] | None = None
    """Number of subscribers by topic; None without a pattern."""


async def survey(pattern: str | None = None) -> list[Node]:
    """Return a node for each process that serves topic clients.

    Processes that take longer than a second are left out.

    Args:
        pattern: a glob of the topics whose subscribers are counted; None for none.

    Raises:
        LayerUnavailable: when the broker could not be reached in time.
    """
    current()  # makes the hub, so that a process that serves only the API is listed
    answers = await cluster.current().ask("topics.survey", pattern, timeout=_TIMEOUT)
    nodes = [msgspec.convert(each, Node) for each in answers.by_process.values()]
    return sorted(nodes, key=lambda node: node.uid)


@cluster.handler("topics.survey")
def _describe(pattern: str | None) -> Any:
    if not hubs():
        return None
    clients = [client for hub in hubs().values() for client in hub]
    counts = Counter(name for each in clients for name in each.context.subscriptions)
    node = Node(
        uid=cluster.current().process,
        name=f"{socket.gethostname()}:{os.getpid()}",
        version=f"tiderace {__version__}",
        num_clients=len(clients),
        num_users=len({each.context.identity.user_id for each in clients} - {""}),
        num_subs=counts.total(),
        num_channels=len(counts),
        uptime=round(time.monotonic() - min(hub.started for hub in hubs().values())),
    )
    if pattern is not None:
        names = fnmatch.filter(counts, pattern) if pattern else counts
        node.channels = {name: counts[name] for name in names}
    return node
