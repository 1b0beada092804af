"""Every measurement of Tiderace: native counters with a name, a unit and a meaning.

Counting costs one integer addition, a histogram a little more; exporters read the
values at scrape time.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TypeVar

__all__ = [
    "BROKERS_AWAY",
    "CLOSES_RECEIVED",
    "CLOSES_SENT",
    "CONNECTIONS_ACCEPTED",
    "CONNECTIONS_DRAINED",
    "CONNECTIONS_LIMITED",
    "CONNECTIONS_OPEN",
    "CONNECTION_DURATION",
    "CONSUMER_ERRORS",
    "DRAIN_REFUSALS",
    "FAN_OUT_DURATION",
    "GAPS_FILLED",
    "GAPS_LOST",
    "HANDLER_DURATION",
    "LATEST_VALUES_DROPPED",
    "LAYER_INTERRUPTIONS",
    "MESSAGES_DELIVERED",
    "MESSAGES_DROPPED_EXPIRED",
    "MESSAGES_DROPPED_FULL",
    "MESSAGES_DROPPED_UNHANDLED",
    "MESSAGES_LIMITED",
    "MESSAGES_SENT",
    "ORIGINS_REFUSED",
    "OUTBOX_AGE",
    "OUTBOX_RELAYED",
    "OUTBOX_SET_ASIDE",
    "OUTBOX_WAITING",
    "PRESENCE_FORGOTTEN",
    "PRESENCE_GATHERED",
    "PUBLICATIONS_LOST",
    "PUBLICATIONS_REPLACED",
    "PUBLISH_DURATION",
    "ROUTES_NOT_FOUND",
    "SENDS_AFTER_CLOSE",
    "SLOW_CLIENTS",
    "TOPIC_COMMANDS",
    "TOPIC_CONNECTIONS",
    "TOPIC_REFUSALS",
    "TOPIC_RESUBSCRIPTIONS",
    "UNDECIDED_PUBLICATIONS_DROPPED",
    "Histogram",
    "LabelledCounter",
    "Measurement",
    "histograms",
    "labelled_counters",
    "measurements",
]

# Labels of one counter. Applications choose close codes freely, and a series per code
# would grow without bound here and in the store of the metrics.
_LABELS = 100
OTHER = "other"


@dataclass(slots=True, eq=False)
class Measurement:
    """One number of this process since it started.

    A ``counter`` only grows; a ``gauge`` goes up and down. ``add`` is not atomic
    over threads: two threads that count at the same instant may count once, in
    exchange for a cost of 0.04 microseconds.
    """

    name: str
    unit: str
    meaning: str
    kind: str = "counter"
    value: int = field(default=0, init=False)

    def add(self, amount: int = 1) -> None:
        """Count ``amount`` more (a gauge also takes a negative amount)."""
        self.value += amount


@dataclass(slots=True, eq=False)
class LabelledCounter:
    """A counter with one label, such as a close code.

    It has up to a hundred labels; further ones are counted as ``other``.
    """

    name: str
    unit: str
    label: str
    meaning: str
    values: dict[str, int] = field(default_factory=dict, init=False)

    def add(self, value: object) -> None:
        """Count one more under the label ``str(value)``."""
        values = self.values
        text = str(value)
        if text not in values and len(values) >= _LABELS:
            text = OTHER
        values[text] = values.get(text, 0) + 1


@dataclass(slots=True, eq=False)
class Histogram:
    """The number of values within fixed bounds since the process started.

    Args:
        name: the exported name.
        unit: the unit of the values and the bounds.
        meaning: one phrase.
        bounds: the upper bounds, ascending and inclusive; ``counts`` has one more place
            for values above the last one.
    """

    name: str
    unit: str
    meaning: str
    bounds: tuple[float, ...]
    counts: list[int] = field(init=False)
    total: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    @property
    def count(self) -> int:
        """The number of values."""
        return sum(self.counts)

    def quantile(self, share: float, since: Sequence[int] = ()) -> float | None:
        """Return an estimate of the value that ``share`` of the values do not exceed.

        Within two bounds the values are taken as evenly spread, as Prometheus does.

        Args:
            share: from 0 to 1; 0.5 for the median.
            since: a copy of ``counts``: what was counted by then is left out.

        Returns:
            In the histogram's unit; the largest bound for values above it, None where
            nothing was counted.
        """
        counts = [
            now - before for now, before in zip_longest(self.counts, since, fillvalue=0)
        ]
        if not (total := sum(counts)):
            return None
        below, lower = 0, 0.0
        for count, upper in zip(counts, self.bounds, strict=False):
            if count and below + count >= share * total:
                return lower + (upper - lower) * (share * total - below) / count
            below, lower = below + count, upper
        return lower


M = TypeVar("M", Measurement, LabelledCounter, Histogram)


def _all(kind: type[M]) -> Iterator[M]:
    return (each for each in globals().values() if isinstance(each, kind))


def measurements() -> Iterator[Measurement]:
    """Return all counters and gauges, in the order of their declaration below."""
    return _all(Measurement)


def labelled_counters() -> Iterator[LabelledCounter]:
    """Return all counters with a label."""
    return _all(LabelledCounter)


def histograms() -> Iterator[Histogram]:
    """Return all histograms."""
    return _all(Histogram)


CONNECTIONS_ACCEPTED = Measurement(
    "connections_accepted", "connections", "sockets that a consumer accepted"
)
CONNECTIONS_OPEN = Measurement(
    "connections_open", "connections", "consumers being served now", "gauge"
)
CONSUMER_ERRORS = Measurement(
    "consumer_errors", "errors", "exceptions that a consumer's handlers let out"
)
MESSAGES_SENT = Measurement(
    "messages_sent", "messages", "messages handed to a layer by send or group_send"
)
MESSAGES_DELIVERED = Measurement(
    "messages_delivered", "messages", "messages put into a mailbox of this process"
)
MESSAGES_DROPPED_FULL = Measurement(
    "messages_dropped_full", "messages", "group messages refused by a full mailbox"
)
MESSAGES_DROPPED_EXPIRED = Measurement(
    "messages_dropped_expired", "messages", "messages not read within the expiry"
)
MESSAGES_DROPPED_UNHANDLED = Measurement(
    "messages_dropped_unhandled", "messages", "layer messages without a handler"
)
BROKERS_AWAY = Measurement(
    "brokers_away", "brokers", "brokers that should be heard and are not, now", "gauge"
)
LAYER_INTERRUPTIONS = Measurement(
    "layer_interruptions", "connections", "connections to a broker that were lost"
)
GAPS_FILLED = Measurement(
    "gaps_filled", "messages", "messages fetched that a broker's push had missed"
)
GAPS_LOST = Measurement(
    "gaps_lost", "gaps", "times when messages were missed and could not be fetched"
)
SLOW_CLIENTS = Measurement(
    "slow_clients", "connections", "sockets closed since they left too much unread"
)
SENDS_AFTER_CLOSE = Measurement(
    "sends_after_close", "events", "events a handler sent to a socket already gone"
)
ROUTES_NOT_FOUND = Measurement(
    "routes_not_found", "connections", "connections refused for want of a route"
)
ORIGINS_REFUSED = Measurement(
    "origins_refused", "connections", "sockets refused because of their Origin"
)
CONNECTIONS_LIMITED = Measurement(
    "connections_limited", "connections", "refused: their user or address has too many"
)
MESSAGES_LIMITED = Measurement(
    "messages_limited", "messages", "of clients, refused since there were too many"
)
CONNECTIONS_DRAINED = Measurement(
    "connections_drained", "connections", "connections asked to end by a drain"
)
DRAIN_REFUSALS = Measurement(
    "drain_refusals", "connections", "sockets refused because of a drain"
)

CLOSES_SENT = LabelledCounter(
    "closes_sent",
    "connections",
    "code",
    "sockets that the application closed, by close code; refused for a handshake",
)
CLOSES_RECEIVED = LabelledCounter(
    "closes_received", "connections", "code", "sockets that a client left, by its code"
)

# From a tenth of the time of a short handler to ten seconds.
_CALL_BOUNDS = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    10.0,
)
# From a page that is left at once to a tab that is open for a day.
_CONNECTION_BOUNDS = (1.0, 10.0, 60.0, 300.0, 1800.0, 3600.0, 14400.0, 43200.0, 86400.0)

HANDLER_DURATION = Histogram(
    "handler_duration",
    "seconds",
    "how long handlers of client events took, and one in 64 of group messages",
    _CALL_BOUNDS,
)
FAN_OUT_DURATION = Histogram(
    "fan_out_duration",
    "seconds",
    "from a group message's first mailbox in this process to its last",
    _CALL_BOUNDS,
)
PUBLISH_DURATION = Histogram(
    "publish_duration",
    "seconds",
    "how long a broker took to accept a group message or a publication",
    _CALL_BOUNDS,
)
CONNECTION_DURATION = Histogram(
    "connection_duration",
    "seconds",
    "how long connections lasted, counted when they end",
    _CONNECTION_BOUNDS,
)
TOPIC_CONNECTIONS = Measurement(
    "topic_connections", "connections", "topic clients being served now", "gauge"
)
TOPIC_COMMANDS = Measurement(
    "topic_commands", "commands", "commands of topic clients that were carried out"
)
TOPIC_REFUSALS = Measurement(
    "topic_refusals", "commands", "commands of topic clients answered with an error"
)
TOPIC_RESUBSCRIPTIONS = Measurement(
    "topic_resubscriptions",
    "subscriptions",
    "subscriptions that missed something and were told to begin again",
)
PRESENCE_GATHERED = Measurement(
    "presence_gathered",
    "times",
    "joins and leaves gathered, instead of pushed one by one",
)
PRESENCE_FORGOTTEN = Measurement(
    "presence_forgotten",
    "connections",
    "connections whose presence was lost and restored",
)
PUBLICATIONS_LOST = Measurement(
    "publications_lost",
    "publications",
    "publications that waited for a commit and then found no broker",
)
PUBLICATIONS_REPLACED = Measurement(
    "publications_replaced",
    "publications",
    "publications replaced by newer ones of their key before they were delivered",
)
LATEST_VALUES_DROPPED = Measurement(
    "latest_values_dropped",
    "subscriptions",
    "subscriptions that missed the newest value of a key, since there were too many",
)
UNDECIDED_PUBLICATIONS_DROPPED = Measurement(
    "undecided_publications_dropped",
    "publications",
    "publications to a subscriber for which may_receive failed or took too long",
)
OUTBOX_WAITING = Measurement(
    "outbox_waiting",
    "publications",
    "rows of the outbox that wait, if its relay is at work in this process",
    "gauge",
)
OUTBOX_AGE = Measurement(
    "outbox_age", "seconds", "age of the oldest row of the outbox that waits", "gauge"
)
OUTBOX_SET_ASIDE = Measurement(
    "outbox_set_aside",
    "publications",
    "rows of the outbox that cannot be published and are set aside",
    "gauge",
)
OUTBOX_RELAYED = Measurement(
    "outbox_relayed", "publications", "rows of the outbox that were published"
)
