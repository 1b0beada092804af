"""The topics of the devices: the newest value of each, and their alarms."""

from __future__ import annotations

from tiderace.layers import get_channel_layer
from tiderace.topics import (
    History,
    IsAuthenticated,
    IsStaff,
    Latest,
    Topic,
    ahistory,
    apublish,
)

FLEET = "devices:fleet"
PACE = "devices:pace"
# The group of the sockets of all devices.
SOCKETS = "devices.sockets"
# Seconds between two reports of a device: while the page is open somewhere, and else.
WATCHED, UNWATCHED = 1.0, 15.0


class Fleet(Topic):
    """Pages get the newest value of each device, ten times a second."""

    pattern = FLEET
    history = History(size=1000, ttl=60)
    deliver = Latest(rate="10/s", key="device")
    rewind = 1000
    permission_classes = [IsAuthenticated]

    async def topic_opened(self) -> None:
        """Let the devices report often: the first page is open."""
        await _announce(WATCHED)

    async def topic_closed(self) -> None:
        """Let them report rarely: the last page is closed."""
        await _announce(UNWATCHED)


class Alarms(Topic):
    """The model ``Device`` publishes alarms that begin and end."""

    pattern = "devices:alarms"
    history = History(size=200, ttl=3600)
    permission_classes = [IsAuthenticated]


class ReportRate(Topic):
    """How often devices are to report; its history is the memory of all processes."""

    pattern = "devices:pace"
    history = History(size=1, ttl=7 * 86400)
    permission_classes = [IsStaff]


async def interval() -> float:
    """Return how often a device is to report, in seconds."""
    said = (await ahistory(PACE)).messages
    return float(said[-1]) if said else UNWATCHED


async def _announce(seconds: float) -> None:
    await apublish(PACE, seconds)
    message = {"type": "device.interval", "interval": seconds}
    await get_channel_layer().group_send(SOCKETS, message)
