"""What groups, queues and processes are called in Redis.

It knows the layer's prefix and the slots of a cluster, and no connection: text in, names
out.

Keys (``P`` is the layer's prefix, ``G`` a group, ``Q`` a queue; all expire):

==========================  ==========================================================
``P:group:G:stream``        the group's last messages; ``expiry`` after the last one,
                            or as long as its history lasts
``P:group:G:meta``          its epoch and last offset; ten times as long
``P:group:G:once:K``        where what was published under a key stands; five minutes
``P:group:G``               named channels in the group by join time; ``group_expiry``
``P:queue:Q:list``          unread messages of a named channel; ``expiry``
``P:queue:Q:taken``         messages being taken by a process; a lease longer
``P:processes``             processes by their last sign of life; a lease
``P:members:PROCESS:G``     channels of one process in the group; a lease
``P:queue:PROCESS:stats``   what the process says about itself; a lease
``P:rate:K``                a bucket; until it is full again
==========================  ==========================================================

Those of presence are in ``tiderace.layers.redis.presence``. In a cluster there are braces
around ``P:group:G``, ``P:queue:Q`` and ``P:rate:K``, and around the pub/sub channels that
are called the same, so that what one script uses is in one slot.
"""

from __future__ import annotations

from collections.abc import Collection

__all__ = ["KeySchema"]


class KeySchema:
    """The keys and pub/sub channels of one layer.

    Args:
        prefix: what every key and pub/sub channel begins with.
        database: the number of the database; of its own are the keys, while pub/sub
            channels are the same in all databases of a server.
        cluster: whether keys of one script must be in one slot.
    """

    def __init__(self, prefix: str, *, database: int, cluster: bool) -> None:
        self._prefix = prefix
        self._cluster = cluster
        self._channels = f"{prefix}:{database}:".encode()
        self._channels_end = b""
        self.publish = "PUBLISH"
        """The command that publishes."""
        if cluster:
            # In the slot of the keys, so that one script may use both.
            self._channels, self._channels_end = f"{{{prefix}:".encode(), b"}"
            self.publish = "SPUBLISH"
        self.processes = f"{prefix}:processes"
        """The key of the processes that live."""

    # Keys

    def group(self, subject: str) -> str:
        """What the keys of a group begin with, and the key of its named members."""
        return self._tag(f"{self._prefix}:group:{subject}")

    def queue(self, queue: str) -> str:
        """What the keys of a queue begin with."""
        return self._tag(f"{self._prefix}:queue:{queue}")

    def members(self, process: str, subject: str) -> str:
        """The key of one process's members of a group."""
        return f"{self._prefix}:members:{process}:{subject}"

    def stats(self, process: str) -> str:
        """The key of what a process says about itself."""
        # In the slot of the pub/sub channel that goes with it.
        return f"{self.queue(process)}:stats"

    def rate(self, key: str) -> str:
        """The key of a bucket."""
        return self._tag(f"{self._prefix}:rate:{key}")

    def _tag(self, key: str) -> str:
        return f"{{{key}}}" if self._cluster else key

    @property
    def pattern(self) -> str:
        """A glob pattern for all the keys."""
        return f"{'*' if self._cluster else ''}{_escaped(self._prefix)}:*"

    # Pub/sub channels

    def group_channel(self, subject: str) -> bytes:
        """Where a group's publications are heard."""
        return self._channel("group", subject)

    def queue_channel(self, queue: str) -> bytes:
        """Where it is heard that a queue, or a process, has something."""
        return self._channel("queue", queue)

    def channels(
        self, subjects: Collection[str], queues: Collection[str]
    ) -> list[bytes]:
        """Where all of these are heard."""
        return [
            *(self.group_channel(subject) for subject in subjects),
            *(self.queue_channel(queue) for queue in queues),
        ]

    def split(self, channel: bytes) -> tuple[bytes, bytes]:
        """What is heard on a channel: ``b"group"`` or ``b"queue"``, and its name."""
        end = len(channel) - len(self._channels_end)
        kind, _, name = channel[len(self._channels) : end].partition(b":")
        return kind, name

    def _channel(self, kind: str, name: str) -> bytes:
        return self._channels + f"{kind}:{name}".encode() + self._channels_end


def _escaped(text: str) -> str:
    """``text`` as a glob pattern of Redis that matches itself alone."""
    return "".join(f"\\{each}" if each in "*?[]^-\\" else each for each in text)
