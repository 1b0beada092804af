"""The names of keys and pub/sub channels in Redis.

Keys and their time to live (``P`` is the layer's prefix, ``G`` a group, ``Q`` a queue):

==========================  ==========================================================
``P:group:G:stream``        the group's last messages; ``expiry`` after the last one,
                            or as long as its history lasts, and up to a quarter longer
``P:group:G:meta``          its epoch, last offset and retention; nine to ten times as
                            long
``P:group:G:once:K``        position of what was published under an idempotency key
                            with the digest ``K``; five minutes, of an outbox longer
``P:group:G``               named channels in the group by join time; ``group_expiry``
``P:server``                the server's replication id; a second
``P:queue:Q:list``          unread messages of a named channel; ``expiry``
``P:queue:Q:taken``         messages taken and not acknowledged yet; a lease longer
``P:processes``             processes by their last heartbeat; a lease
``P:members:PROCESS:G``     channels of one process in the group; a lease
``P:queue:PROCESS:stats``   the statistics of a process; a lease
``P:rate:K``                a token bucket; until it is full again
==========================  ==========================================================

In ``G``, ``%`` and ``:`` are percent-encoded, so that two groups never have the same key.
The keys of presence are in ``tiderace.layers.redis.presence``. In a cluster
``G`` is as it is, and there are braces around ``P:group:G``, ``P:queue:Q`` and
``P:rate:K``, and around the pub/sub channels of the same names, so that the keys and the
channel of a script are in one slot; the replication id is kept for each group.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection


class KeySchema:
    """The keys and pub/sub channels of one layer.

    Args:
        prefix: what every key and pub/sub channel begins with.
        database: number of the database. It is part of the names of pub/sub channels,
            which all databases of a server share.
        cluster: whether the keys of one script must be in one slot.
    """

    def __init__(self, prefix: str, *, database: int, cluster: bool) -> None:
        self._prefix = prefix
        self.is_cluster = cluster
        self._channel_start = f"{prefix}:{database}:".encode()
        self._channel_end = b""
        self.publish_command = "PUBLISH"
        if cluster:
            # A channel is in the slot of the keys, as scripts use both.
            self._channel_start, self._channel_end = f"{{{prefix}:".encode(), b"}"
            self.publish_command = "SPUBLISH"
        self.processes = f"{prefix}:processes"

    # Keys

    def group(self, subject: str) -> str:
        """Return the key of a group's named members, and the start of its other keys."""
        if self.is_cluster:  # the braces end the name
            return self._tag(f"{self._prefix}:group:{subject}")
        # Unescaped, the group "lobby:meta" would have the key of the meta of "lobby".
        name = subject.replace("%", "%25").replace(":", "%3A")
        return f"{self._prefix}:group:{name}"

    def stream(self, subject: str) -> str:
        return f"{self.group(subject)}:stream"

    def meta(self, subject: str) -> str:
        return f"{self.group(subject)}:meta"

    def server(self, subject: str) -> str:
        if self.is_cluster:  # in the slot of the group's other keys
            return f"{self.group(subject)}:server"
        return f"{self._prefix}:server"

    def once(self, subject: str, key: str) -> str:
        # Clients choose keys of any length.
        digest = hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
        return f"{self.group(subject)}:once:{digest}"

    def queue_list(self, queue: str) -> str:
        return f"{self._queue(queue)}:list"

    def taken(self, queue: str) -> str:
        return f"{self._queue(queue)}:taken"

    def stats(self, process: str) -> str:
        # The key is in the slot of the pub/sub channel of the same process.
        return f"{self._queue(process)}:stats"

    def members(self, process: str, subject: str) -> str:
        return f"{self._prefix}:members:{process}:{subject}"

    def rate(self, key: str) -> str:
        return self._tag(f"{self._prefix}:rate:{key}")

    @property
    def pattern(self) -> str:
        """A glob pattern that matches all keys."""
        return f"{'*' if self.is_cluster else ''}{_escape(self._prefix)}:*"

    def _queue(self, queue: str) -> str:
        return self._tag(f"{self._prefix}:queue:{queue}")

    def _tag(self, key: str) -> str:
        return f"{{{key}}}" if self.is_cluster else key

    # Pub/sub channels

    def group_channel(self, subject: str) -> bytes:
        """Return the channel of a group's publications."""
        return self._channel("group", subject)

    def queue_channel(self, queue: str) -> bytes:
        """Return the channel that signals a message in a queue or a process's report."""
        return self._channel("queue", queue)

    def channels(
        self, subjects: Collection[str], queues: Collection[str]
    ) -> list[bytes]:
        """Return the channels of all these groups and queues."""
        return [
            *(self.group_channel(subject) for subject in subjects),
            *(self.queue_channel(queue) for queue in queues),
        ]

    def split(self, channel: bytes) -> tuple[str, str]:
        """Return "group" or "queue", and the name, of a channel."""
        end = len(channel) - len(self._channel_end)
        text = channel[len(self._channel_start) : end].decode()
        kind, _, name = text.partition(":")
        return kind, name

    def _channel(self, kind: str, name: str) -> bytes:
        return self._channel_start + f"{kind}:{name}".encode() + self._channel_end


def _escape(text: str) -> str:
    """Return the glob pattern that matches ``text`` alone."""
    return "".join(f"\\{each}" if each in "*?[]^-\\" else each for each in text)
