"""The demo's settings with a layer that other processes would share.

The layer writes what is sent to a file, which a test can read.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tiderace.demo.settings import *  # noqa: F403
from tiderace.layers import BaseChannelLayer

SENT = Path(os.environ["TIDERACE_DEMO_DATA"]).with_name("sent.json")


class FileLayer(BaseChannelLayer):
    """Writes the last group message to ``SENT``."""

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        SENT.write_text(json.dumps([group, message]))


CHANNEL_LAYERS = {"default": {"BACKEND": "sites.demo_shared_layer.FileLayer"}}
