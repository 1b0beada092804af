"""Token buckets in the database."""

from __future__ import annotations

import math

from tiderace.layers.database.vendor import Cursor, replacing
from tiderace.ratelimit import Rate


def take_token(cursor: Cursor, name: str, rate: Rate) -> float:
    """Take a token from a bucket; return 0, or the seconds until there is one."""
    now = cursor.now_ms
    period = rate.seconds * 1000
    found = cursor.fetch(
        "SELECT full_ms FROM tiderace_layer_bucket WHERE name = %s", (name,)
    )
    # The row has the time at which the bucket will be full again.
    full_at = max(found[0][0] if found else 0.0, now) + period / rate.count
    wait = full_at - now - period
    if wait > 0.001:
        return math.ceil(wait) / 1000
    cursor.insert(
        "bucket",
        ("name", "full_ms"),
        [(name, full_at)],
        replacing("name", "full_ms"),
    )
    return 0.0
