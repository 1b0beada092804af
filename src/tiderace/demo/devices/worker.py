"""Runs the worker in each process of the demo, which starts no other program.

On a site of yours it is a process: ``manage.py runworker telemetry``.
"""

from __future__ import annotations

from tiderace.demo.devices.ingest import STORE
from tiderace.layers import get_channel_layer
from tiderace.routing import get_default_application
from tiderace.runtime.lifespan import while_serving
from tiderace.worker import Worker


@while_serving
async def work() -> None:
    """Store what the devices report."""
    await Worker(get_default_application(), [STORE], get_channel_layer()).arun()
