"""Statistics of a process, as a layer reports them."""

from __future__ import annotations

from tiderace.layers.stats import ProcessStats


def process_stats(**values) -> ProcessStats:
    """Return statistics of a process, all zero except ``values``."""
    return ProcessStats(
        **{
            "process": "p",
            "host": "h",
            "pid": 1,
            "started": 0.0,
            "at": 0.0,
            "ready": True,
            "connections": 0,
            "channels": 0,
            "groups": 0,
            "members": {},
            "sent": 0,
            "delivered": 0,
            "sent_per_second": 0.0,
            "delivered_per_second": 0.0,
            "dropped": {},
            "slow_clients": 0,
            "errors": 0,
            **values,
        }
    )
