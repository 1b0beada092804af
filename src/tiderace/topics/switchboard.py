"""Between the processes that serve topic clients: commands for each other, and questions.

A client whose transport has no way back sends its commands as requests, and any process
of the site may get them. It knows processes by their nodes, and a layer on which each
of them listens; what the commands say is not its business.
"""

from __future__ import annotations

import asyncio
import base64
import fnmatch
import logging
import os
import secrets
import socket
import time
import weakref
from collections import Counter
from collections.abc import Coroutine
from typing import Any, Protocol

import msgspec

from tiderace import __version__
from tiderace.history import Publication
from tiderace.layers import InMemoryChannelLayer
from tiderace.layers.names import group_name
from tiderace.topics.api import control_layer
from tiderace.topics.hub import TopicHub, is_node

__all__ = [
    "FULL",
    "GONE",
    "TAKEN",
    "Emulated",
    "Node",
    "Switchboard",
    "switchboard",
]

logger = logging.getLogger("tiderace.topics")

TAKEN = 204
"""The commands will be carried out."""
GONE = 404
"""No client of this session is being served."""
FULL = 429
"""It has too many commands waiting."""

# Seconds another process has for its answer; a few turns of a busy loop, and a broker.
_PATIENCE = 5.0
# Seconds in which all processes answer a question; how many there are is not known.
_SURVEY = 0.5

_EVERYBODY = group_name("topics-nodes")


class Node(msgspec.Struct, omit_defaults=True):
    """What one process says of itself."""

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
    """Subscribers by topic, when they were asked for."""


class Emulated(Protocol):
    """A transport whose commands come by requests of their own."""

    user_id: str
    """Whose session the client began with."""

    def feed(self, message: bytes) -> bool:
        """Let ``message`` be received next; False when too much is waiting."""


class Switchboard:
    """What one process sends to others about clients, and hears from them."""

    def __init__(self, process: TopicHub) -> None:
        # Of Process, in whose place it hears; see tiderace.delivery.stream_hub.Listener.
        self.name = f"switchboard:{process.node}"
        self.groups: set[str] = set()
        self._process = weakref.ref(process)
        self._node = process.node
        self._layer: Any = None
        self._asked: dict[str, asyncio.Future[int]] = {}
        self._surveys: dict[str, list[Node]] = {}
        self._begun = time.monotonic()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def open(self) -> None:
        """Listen to other processes; does nothing the second time.

        Raises:
            LayerUnavailable: when the broker could not be reached in time.
        """
        layer, group = control_layer(), _group(self._node)
        if layer is self._layer and group in self.groups:
            return
        await layer.stream_subscribe(_EVERYBODY, self)
        await layer.stream_subscribe(group, self)
        self._layer = layer

    async def deliver(self, node: str, session: str, user_id: str, data: bytes) -> int:
        """Hand commands to whoever serves ``session``.

        Args:
            node: the process that serves it, as it was told to the client.
            session: the secret that it was told as well.
            user_id: who sends them; they must be of the one who began the session.
            data: the commands.

        Returns:
            ``TAKEN``, ``GONE`` or ``FULL``; ``GONE`` too when the process does not
            answer, since it has most likely ended.

        Raises:
            LayerUnavailable: when the broker could not be reached in time.
        """
        if node == self._node:
            return self._take(session, user_id, data)
        if not is_node(node):
            return GONE
        await self.open()
        number = secrets.token_hex(8)
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        event = {
            "type": "topics.commands",
            "number": number,
            "from": self._node,
            "session": session,
            "user": user_id,
            "data": base64.b64encode(data).decode(),
        }
        try:
            await self._layer.group_send(_group(node), event)
            async with asyncio.timeout(_PATIENCE):
                return await answer
        except TimeoutError:
            logger.info("no process %s has answered within %g s", node, _PATIENCE)
            return GONE
        finally:
            del self._asked[number]

    async def survey(self, pattern: str | None = None) -> list[Node]:
        """What the processes that serve topic clients say of themselves.

        Those that do not answer within half a second are left out.

        Args:
            pattern: which topics to count subscribers of, as a glob; None for none.

        Raises:
            LayerUnavailable: when the broker could not be reached in time.
        """
        if isinstance(control_layer(), InMemoryChannelLayer):
            return [self._describe(pattern)]
        await self.open()
        number = secrets.token_hex(8)
        answers = self._surveys[number] = []
        event = {
            "type": "topics.survey",
            "number": number,
            "from": self._node,
            "pattern": pattern,
        }
        try:
            await self._layer.group_send(_EVERYBODY, event)
            await asyncio.sleep(_SURVEY)
        finally:
            del self._surveys[number]
        return sorted(answers, key=lambda node: node.uid)

    def on_publication(self, group: str, publication: Publication) -> None:
        """See ``tiderace.delivery.stream_hub.Listener``."""
        event = msgspec.json.decode(publication.data)
        number = event["number"]
        match event["type"]:
            case "topics.taken":
                answer = self._asked.get(number)
                if answer is not None and not answer.done():
                    answer.set_result(event["status"])
            case "topics.surveyed":
                if number in self._surveys:
                    node = msgspec.convert(event["node"], Node)
                    self._surveys[number].append(node)
            case "topics.survey":
                node = self._describe(event["pattern"])
                said = msgspec.to_builtins(node)
                self._reply(event, {"type": "topics.surveyed", "node": said})
            case "topics.commands":
                data = base64.b64decode(event["data"])
                # Now, not in the task: they are carried out in the order they came in.
                status = self._take(event["session"], event["user"], data)
                self._reply(event, {"type": "topics.taken", "status": status})

    def _reply(self, asked: dict[str, Any], event: dict[str, Any]) -> None:
        event["number"] = asked["number"]
        self._spawn(self._layer.group_send(_group(asked["from"]), event))

    def on_gap(self, group: str) -> None:
        """See ``tiderace.delivery.stream_hub.Listener``; who asked waits in vain."""

    def _take(self, session: str, user_id: str, data: bytes) -> int:
        process = self._process()
        client = None if process is None else process.by_session(session)
        if client is None:
            return GONE
        transport: Any = client.transport
        emulated: Emulated = transport
        if emulated.user_id != user_id:
            logger.warning(
                "commands for the session of user %r came from user %r",
                emulated.user_id,
                user_id,
            )
            return GONE
        return TAKEN if emulated.feed(data) else FULL

    def _describe(self, pattern: str | None) -> Node:
        served = list(self._process() or ())
        counts = Counter(name for each in served for name in each.context.subscriptions)
        node = Node(
            uid=self._node,
            name=f"{socket.gethostname()}:{os.getpid()}",
            version=f"tiderace {__version__}",
            num_clients=len(served),
            num_users=len({each.context.identity.user_id for each in served} - {""}),
            num_subs=counts.total(),
            num_channels=len(counts),
            uptime=round(time.monotonic() - self._begun),
        )
        if pattern is not None:
            names = fnmatch.filter(counts, pattern) if pattern else counts
            node.channels = {name: counts[name] for name in names}
        return node

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.warning("another process could not be answered: %s", error)


def _group(node: str) -> str:
    return group_name("topics-node", node)


_by_process: weakref.WeakKeyDictionary[TopicHub, Switchboard] = (
    weakref.WeakKeyDictionary()
)


def switchboard(process: TopicHub) -> Switchboard:
    """The one of this process."""
    found = _by_process.get(process)
    if found is None:
        found = _by_process[process] = Switchboard(process)
    return found
