"""Publishes the metrics of this process once a second while a dashboard is open."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from typing import Any

from tiderace.demo.ops.topics import METRICS
from tiderace.exceptions import LayerUnavailable
from tiderace.layers import get_channel_layer
from tiderace.metrics import FAN_OUT_DURATION
from tiderace.runtime.lifespan import while_serving
from tiderace.topics import apresence_stats, apublish

logger = logging.getLogger(__name__)


@while_serving
async def sample() -> None:
    """Publish a sample at the beginning of each second, late ones left out."""
    counts = list(FAN_OUT_DURATION.counts)
    second = 0
    while True:
        second = max(second, int(time.time())) + 1
        await asyncio.sleep(second - time.time())
        try:
            clients, _users = await apresence_stats(METRICS)
            if clients:
                await apublish(METRICS, await measure(second, counts))
        except LayerUnavailable as error:
            logger.warning("the dashboard pauses: %s", error)
        counts = list(FAN_OUT_DURATION.counts)


async def measure(second: int, counts: list[int]) -> dict[str, Any]:
    """Return the metrics of this process.

    Args:
        second: the time, in seconds since 1970.
        counts: those of the fan-outs a second ago.
    """
    layer: Any = get_channel_layer()
    stats = (await layer.stats()).processes[0]
    return {
        "process": os.getpid(),
        "second": second,
        "clients": stats.connections + stats.topic_clients,
        "sent": stats.sent_per_second,
        "delivered": stats.delivered_per_second,
        "p50": FAN_OUT_DURATION.quantile(0.5, since=counts),
        "p99": FAN_OUT_DURATION.quantile(0.99, since=counts),
        "round_trip": stats.round_trip,
        "dropped": sum(stats.dropped.values()),
        "memory": stats.memory,
    }
