"""The statistics of a layer: of one process, or of every process that receives.

They are read from counters, cheap enough to be read every second.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from tiderace import metrics

__all__ = ["LayerStats", "Pace", "ProcessStats"]

# Seconds over which messages per second are measured.
_WINDOW = 5.0
# The least number of seconds between two samples of the counters.
_STEP = 0.5


class ProcessStats(msgspec.Struct, frozen=True):
    """The statistics of one process.

    Groups and channels are those of one layer. Counters and rates are those of the process,
    over all its layers.
    """

    process: str
    """The layer's name for the process, as in channel names."""
    host: str
    pid: int
    started: float
    """When the layer was created, in seconds since 1970."""
    at: float
    """When these numbers were read, in seconds since 1970."""
    ready: bool
    """Whether the process receives from the broker, as ``layer.ready``."""
    connections: int
    """Consumers being served."""
    channels: int
    """Channels with a reader or unread messages."""
    groups: int
    """Groups with a member in it."""
    members: dict[str, int]
    """Members in this process by group, of the largest groups alone.

    With more than 20,000 groups, the largest of the 20,000 oldest."""
    sent: int
    """Messages handed to layers since it began."""
    delivered: int
    """Messages put into mailboxes since it began."""
    sent_per_second: float
    delivered_per_second: float
    dropped: dict[str, int]
    """Messages dropped since it began, by reason: ``full``, ``expired``, ``unhandled``;
    and ``lost``, how many times a group's messages could not be fetched any more."""
    slow_clients: int
    """Sockets closed since it began because their client read too slowly."""
    errors: int
    """Exceptions that handlers raised since it began."""
    lag: float | None = None
    """Seconds a message now takes over the broker to this process, its event loop
    included; None without a broker and before the first measurement."""
    round_trip: float | None = None
    """Seconds the broker took to accept the last group message or report."""
    memory: int | None = None
    """Resident bytes, from /proc; None on systems without it."""
    topic_clients: int = 0
    """Clients of topics being served, event streams included; also 0 for a process of a
    release that does not report them."""
    in_cluster: bool = False
    """Whether the process takes part in ``tiderace.cluster``."""

    @property
    def age(self) -> float:
        """Seconds since these numbers were read, by this machine's clock."""
        return max(0.0, time.time() - self.at)


class LayerStats(msgspec.Struct, frozen=True):
    """The processes of ``layer.stats()``, and the sums of their statistics."""

    processes: tuple[ProcessStats, ...]

    @property
    def connections(self) -> int:
        """Consumers being served."""
        return sum(each.connections for each in self.processes)

    @property
    def topic_clients(self) -> int:
        """Clients of topics being served, event streams included."""
        return sum(each.topic_clients for each in self.processes)

    @property
    def channels(self) -> int:
        """Channels with a reader or unread messages."""
        return sum(each.channels for each in self.processes)

    @property
    def groups(self) -> int:
        """Groups with a member; one with members in two processes counts in both."""
        return sum(each.groups for each in self.processes)

    @property
    def members(self) -> dict[str, int]:
        """Members by group, the largest first; of a fleet a lower bound.

        Each process names only its largest groups; ``group_count`` is exact.
        """
        together: Counter[str] = Counter()
        for each in self.processes:
            together.update(each.members)
        return dict(together.most_common())

    @property
    def sent_per_second(self) -> float:
        """Messages handed to layers per second, over the last seconds."""
        return sum(each.sent_per_second for each in self.processes)

    @property
    def delivered_per_second(self) -> float:
        """Messages put into mailboxes per second, over the last seconds."""
        return sum(each.delivered_per_second for each in self.processes)

    @property
    def dropped(self) -> dict[str, int]:
        """Messages dropped since the processes began, by reason."""
        together: Counter[str] = Counter()
        for each in self.processes:
            together.update(each.dropped)
        return dict(together)

    @property
    def slow_clients(self) -> int:
        """Sockets closed because their client read too slowly."""
        return sum(each.slow_clients for each in self.processes)

    @property
    def errors(self) -> int:
        """Exceptions that handlers raised."""
        return sum(each.errors for each in self.processes)

    @property
    def lag(self) -> float | None:
        """The largest lag of any process."""
        return _largest(each.lag for each in self.processes)

    @property
    def round_trip(self) -> float | None:
        """The longest round trip to the broker of any process."""
        return _largest(each.round_trip for each in self.processes)

    @property
    def memory(self) -> int | None:
        """Resident bytes of the processes that report them."""
        known = [each.memory for each in self.processes if each.memory is not None]
        return sum(known) if known else None

    @property
    def ready(self) -> bool:
        """Whether every process is ready."""
        return all(each.ready for each in self.processes)

    def as_dict(self) -> dict[str, Any]:
        """Return the statistics as plain data for JSON."""
        totals = {
            name: getattr(self, name)
            for name, member in vars(LayerStats).items()
            if isinstance(member, property)
        }
        return {**totals, "processes": msgspec.to_builtins(self.processes)}


class Pace:
    """The number of messages sent and delivered per second, over the last seconds.

    The counters are sampled with each call: the first call returns the rates since the
    object was made, regular calls those of about five seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._samples = deque([self._sample()])

    def per_second(self) -> tuple[float, float]:
        """Return the messages sent and delivered per second."""
        now, sent, delivered = sample = self._sample()
        samples = self._samples
        while len(samples) > 1 and samples[1][0] <= now - _WINDOW:
            samples.popleft()
        since, sent_then, delivered_then = samples[0]
        if now - samples[-1][0] >= _STEP:
            samples.append(sample)
        # Without a minimum, the first message would count as thousands per second.
        seconds = max(now - since, _STEP)
        return (sent - sent_then) / seconds, (delivered - delivered_then) / seconds

    def _sample(self) -> tuple[float, int, int]:
        return (
            self._clock(),
            metrics.MESSAGES_SENT.value,
            metrics.MESSAGES_DELIVERED.value,
        )


def _largest(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return max(known) if known else None
