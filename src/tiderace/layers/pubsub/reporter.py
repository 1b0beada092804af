"""Reports the statistics of this process, and measures the broker's delays."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable

import msgspec
from msgspec.structs import replace

from tiderace.layers.broker import Broker
from tiderace.layers.local import LocalChannels
from tiderace.layers.stats import ProcessStats

_INTERVAL = 2.0  # seconds between two reports
_INTERVAL_FACTOR = 200  # the interval is at least this many times a report's duration
_TOP = 20  # the largest groups, which a report lists with their size


class Reporter:
    """Sends the statistics of this process to its broker.

    Every two seconds, and while nothing happens each half of the lease: an idle site
    hardly writes to its broker.

    Args:
        local: the channels of this process.
        lease: seconds after which a report expires.
    """

    def __init__(self, local: LocalChannels, *, lease: float) -> None:
        self.lag: float | None = None
        """Seconds from the last report until this process received it."""
        self.round_trip: float | None = None
        """Seconds until the broker accepted the last message or report."""
        self._local = local
        self._lease = lease
        self._clock = local.clock
        self._sent_at = float("-inf")
        self._due_at = float("-inf")
        self._sent: ProcessStats | None = None

    def stats(self, *, ready: bool, top: int) -> ProcessStats:
        """Return the statistics of this process."""
        return self._local.stats(
            ready=ready, top=top, lag=self.lag, round_trip=self.round_trip
        )

    async def report_if_due(self, broker: Broker, *, ready: bool) -> None:
        """Send a report, if the last one is old enough and not still right.

        Raises:
            LayerUnavailable: when the broker could not be reached.
        """
        now = self._clock()
        if now < self._due_at:
            return
        renewal_at = self._sent_at + self._lease / 2
        if now < renewal_at:
            current = self.stats(ready=ready, top=_TOP)
            if self._sent is not None and _is_same(current, self._sent):
                self._due_at = min(now + _INTERVAL, renewal_at)
                return
        await self.report(broker, ready=ready)

    async def report(self, broker: Broker, *, ready: bool) -> None:
        """Send a report now.

        Raises:
            LayerUnavailable: when the broker could not be reached.
        """
        begun = time.perf_counter()
        self._sent = self.stats(ready=ready, top=_TOP)
        report = msgspec.json.encode(self._sent)
        took = time.perf_counter() - begun
        self._sent_at = self._clock()
        self._due_at = self._sent_at + max(_INTERVAL, took * _INTERVAL_FACTOR)
        await broker.memberships.report(self._local.process, report, lease=self._lease)
        self.round_trip = self._clock() - self._sent_at

    def on_report(self) -> None:
        """Measure the lag: this process has received its last report."""
        self.lag = self._clock() - self._sent_at


def _is_same(one: ProcessStats, other: ProcessStats) -> bool:
    """Return whether two reports differ in nothing but the time and the memory."""
    fleeting = {"at": 0.0, "lag": None, "round_trip": None, "memory": None}
    return replace(one, **fleeting) == replace(other, **fleeting)


async def read_reports(brokers: Iterable[Broker]) -> dict[str, ProcessStats]:
    """Return the last report of each process, by the process's name.

    Raises:
        LayerUnavailable: when a broker could not be reached.
    """
    reports = {}
    for broker in brokers:
        for data in await broker.memberships.reports():
            with contextlib.suppress(msgspec.DecodeError):  # from another release
                report = msgspec.json.decode(data, type=ProcessStats)
                reports[report.process] = report
    return reports
