"""Checks and publishes the reports of devices, of WebSockets and of HTTP requests."""

from __future__ import annotations

import time
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from tiderace.demo.devices.topics import FLEET
from tiderace.layers import get_channel_layer
from tiderace.topics import apublish

# The named channel of the worker that stores reports.
STORE = "telemetry"


class Report(msgspec.Struct):
    """A report of a device, as it is sent."""

    wave: Annotated[float, Meta(ge=0, le=30)]  # metres
    temperature: Annotated[float, Meta(ge=-10, le=45)]  # degrees Celsius
    battery: Annotated[float, Meta(ge=0, le=100)]  # percent


async def ingest(device: int, data: Any) -> None:
    """Show a report on the pages, and hand it to the worker that stores it.

    Raises:
        msgspec.ValidationError: when it is no ``Report``.
        ChannelFull: when the worker is too far behind.
    """
    report = msgspec.structs.asdict(msgspec.convert(data, Report))
    reading = {"device": device, **report, "at": time.time()}
    await apublish(FLEET, reading)
    message = {"type": "telemetry.reading", "reading": reading}
    await get_channel_layer().send(STORE, message)
