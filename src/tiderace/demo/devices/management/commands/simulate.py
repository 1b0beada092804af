"""``simulate``: 200 buoys that report to a running demo, each with a token of its own."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import math
import os
import random
import time
from typing import Any
from urllib.parse import urlsplit

from django.core.management.base import BaseCommand, CommandParser
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from tiderace.demo.devices.models import Device
from tiderace.demo.devices.tokens import token_of

# One device in ten opens no socket and reports by HTTP.
_OVER_HTTP = 10
_AGAIN = 2.0  # seconds until a device that was disconnected connects again


class Command(BaseCommand):
    """Simulate the devices until interrupted."""

    help = "Simulate the devices: they report to a running demo until Ctrl+C."

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the server's address."""
        parser.add_argument(
            "--url",
            default="http://127.0.0.1:8000",
            help="where the demo runs (default: %(default)s)",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Simulate every device of the database."""
        devices = list(Device.objects.all())
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(_simulate(devices, options["url"]))


async def _simulate(devices: list[Device], url: str) -> None:
    by_http = devices[::_OVER_HTTP]
    by_socket = [device for device in devices if device not in by_http]
    reports = [_report_by_socket(device, url) for device in by_socket]
    tasks = [
        asyncio.create_task(each) for each in (*reports, _report_by_http(by_http, url))
    ]
    # Not longer than the demo that has started this process, however that ends.
    parent = os.getppid()
    while os.getppid() == parent and not any(task.done() for task in tasks):
        await asyncio.wait(tasks, timeout=_AGAIN, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        if task.done():
            task.result()


async def _report_by_socket(device: Device, url: str) -> None:
    headers = {"Authorization": f"Bearer {token_of(device.pk)}"}
    address = url.replace("http", "ws", 1) + "/devices/socket/"
    while True:
        with contextlib.suppress(OSError, WebSocketException):
            async with connect(address, additional_headers=headers) as socket:
                interval = json.loads(await socket.recv())["interval"]
                while True:
                    await socket.send(json.dumps(measured(device)))
                    # Not all at once.
                    pause = interval * random.uniform(0.8, 1.2)  # noqa: S311
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(pause):
                            message = json.loads(await socket.recv())
                            interval = message.get("interval", interval)
        await asyncio.sleep(_AGAIN * random.uniform(0.5, 2))  # noqa: S311


async def _report_by_http(devices: list[Device], url: str) -> None:
    while True:
        interval = await asyncio.to_thread(_post_all, devices, url)
        await asyncio.sleep(interval)


def _post_all(devices: list[Device], url: str) -> float:
    """Post a report of each device over one connection; return when to come again."""
    address = urlsplit(url)
    interval = _AGAIN
    connection = http.client.HTTPConnection(
        address.hostname or "", address.port, timeout=10
    )
    with (
        contextlib.closing(connection),
        contextlib.suppress(OSError, http.client.HTTPException),
    ):
        for device in devices:
            headers = {"Authorization": f"Bearer {token_of(device.pk)}"}
            body = json.dumps(measured(device))
            connection.request("POST", "/devices/report/", body, headers)
            answer = json.loads(connection.getresponse().read())
            interval = answer.get("interval", interval)
    return float(interval)


def measured(device: Device) -> dict[str, float]:
    """Return what a device measures now: a storm crosses the sea every two minutes."""
    now = time.time()
    storm = math.hypot(device.x - (now % 120) * 1.2 + 20, device.y - 30)
    swell = 1.2 + 0.6 * math.sin(now / 7 + device.x / 9)
    wave = swell + 3.6 * math.exp(-((storm / 16) ** 2)) + random.gauss(0, 0.08)
    charge = (now / 6 + device.pk * 37) % 200
    return {
        "wave": round(max(0.0, wave), 2),
        "temperature": round(12 + device.y / 20 + math.sin(now / 90 + device.x), 1),
        "battery": round(12 + 0.88 * abs(100 - charge), 1),
    }
