"""Every measurement of Tiderace: native counters with a name, a unit and a meaning.

Counting costs one integer addition; exporters read the values when they are asked.
It knows nothing of what it counts.
"""

from __future__ import annotations

from collections.abc import Iterator

__all__ = [
    "BROKERS_AWAY",
    "CONNECTIONS_ACCEPTED",
    "CONNECTIONS_OPEN",
    "CONSUMER_ERRORS",
    "GAPS_FILLED",
    "GAPS_LOST",
    "LAYER_INTERRUPTIONS",
    "MESSAGES_DELIVERED",
    "MESSAGES_DROPPED_EXPIRED",
    "MESSAGES_DROPPED_FULL",
    "MESSAGES_DROPPED_UNHANDLED",
    "MESSAGES_SENT",
    "ORIGINS_REFUSED",
    "ROUTES_NOT_FOUND",
    "SENDS_AFTER_CLOSE",
    "SLOW_CLIENTS",
    "Measurement",
    "measurements",
]

_all: list[Measurement] = []


class Measurement:
    """One number of this process since it started.

    A ``counter`` only grows; a ``gauge`` goes up and down. ``add`` is not atomic
    over threads: two threads that count the same thing at the same instant may
    count it once, which is the price of 0.04 microseconds a call.
    """

    __slots__ = ("kind", "meaning", "name", "unit", "value")

    def __init__(self, name: str, unit: str, meaning: str, kind: str = "counter"):
        self.name = name
        self.unit = unit
        self.meaning = meaning
        self.kind = kind
        self.value = 0
        _all.append(self)

    def add(self, amount: int = 1) -> None:
        """Count ``amount`` more (a gauge also takes a negative amount)."""
        self.value += amount

    def __repr__(self) -> str:
        return f"<{self.kind} {self.name}={self.value} {self.unit}>"


def measurements() -> Iterator[Measurement]:
    """All measurements, in the order in which they are declared below."""
    return iter(_all)


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
