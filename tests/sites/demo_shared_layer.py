"""The demo's settings with a layer that other processes would share.

The layer writes to which stream is published to a file, which a test can read.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tiderace.demo.settings import *  # noqa: F403
from tiderace.history import Position
from tiderace.layers import BaseChannelLayer

SENT = Path(os.environ["TIDERACE_DEMO_DATA"]).with_name("sent")


class FileLayer(BaseChannelLayer):
    """Writes the last stream to which something is published to ``SENT``."""

    async def stream_publish(self, stream: str, *args: Any, **options: Any) -> Position:
        SENT.write_text(stream)
        return Position(1, "epoch")


CHANNEL_LAYERS = {"default": {"BACKEND": "sites.demo_shared_layer.FileLayer"}}
