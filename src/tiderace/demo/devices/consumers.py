"""The socket of a device, and the worker that stores what the devices report."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import msgspec

from tiderace.consumer import AsyncConsumer
from tiderace.db import database_sync_to_async
from tiderace.demo.devices.ingest import ingest
from tiderace.demo.devices.models import Device, Reading
from tiderace.demo.devices.tokens import device_of
from tiderace.demo.devices.topics import SOCKETS, interval
from tiderace.exceptions import ChannelFull
from tiderace.generic.websocket import AsyncJsonWebsocketConsumer

_EVERY = 1.0  # seconds between two batches
# Older readings are deleted, so that the devices cannot fill the disk.
_KEPT = 20_000
HIGH_WAVE = 4.0  # metres
LOW_BATTERY = 15.0  # percent


class DeviceSocket(AsyncJsonWebsocketConsumer):
    """Takes reports, and tells the device how often to report."""

    groups = [SOCKETS]

    async def connect(self) -> None:
        """Refuse a device without a token."""
        headers = dict(self.scope["headers"])
        self.device = device_of(headers.get(b"authorization", b"").decode("latin-1"))
        if self.device is None:
            await self.close(code=4401, reason="send a token")
            return
        await self.accept()
        await self.send_json({"interval": await interval()})

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        """Take a report."""
        assert self.device is not None  # noqa: S101 - refused in connect()
        try:
            await ingest(self.device, content)
        except msgspec.ValidationError as error:
            await self.send_json({"error": str(error)})
        except ChannelFull:
            await self.send_json({"error": "not stored: the worker is behind"})

    async def device_interval(self, event: dict[str, Any]) -> None:
        """Pass a new interval on."""
        await self.send_json({"interval": event["interval"]})


class Storage(AsyncConsumer):
    """The worker: stores the reports of a second in one statement."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._waiting: list[dict[str, Any]] = []

    async def telemetry_reading(self, event: dict[str, Any]) -> None:
        """Add a report to the batch; the first one starts the batch's second."""
        self._waiting.append(event["reading"])
        if len(self._waiting) == 1:
            self.spawn(self._store())

    async def _store(self) -> None:
        await asyncio.sleep(_EVERY)
        batch, self._waiting = self._waiting, []
        await database_sync_to_async(store)(batch)


def store(batch: list[dict[str, Any]]) -> None:
    """Store readings, and let alarms begin and end."""
    devices = Device.objects.in_bulk({each["device"] for each in batch})
    known = [each for each in batch if each["device"] in devices]
    Reading.objects.bulk_create(
        Reading(
            device_id=each["device"],
            wave=each["wave"],
            temperature=each["temperature"],
            battery=each["battery"],
            at=datetime.fromtimestamp(each["at"], UTC),
        )
        for each in known
    )
    for reading in {each["device"]: each for each in known}.values():
        device, alarm = devices[reading["device"]], alarm_of(reading)
        if bool(alarm) != bool(device.alarm):
            device.alarm = alarm
            device.save(update_fields=["alarm"])
    newest = Reading.objects.order_by("-id").values_list("id", flat=True).first() or 0
    Reading.objects.filter(id__lte=newest - _KEPT).delete()


def alarm_of(reading: dict[str, Any]) -> str:
    """Return what is wrong, or nothing."""
    if reading["wave"] >= HIGH_WAVE:
        return f"waves of {reading['wave']:.1f} m"
    if reading["battery"] <= LOW_BATTERY:
        return f"battery at {reading['battery']:.0f} %"
    return ""
