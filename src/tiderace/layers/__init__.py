"""Channel layers: messages between consumers, views, tasks and processes.

    layer = get_channel_layer()
    await layer.group_send("room", {"type": "chat.message", "text": "hi"})

``get_channel_layer(alias)`` returns a layer of the setting ``CHANNEL_LAYERS``, or None.
The guarantees of a layer are those of ``BaseChannelLayer``, tested by the contract in
``tiderace.testing.layer_contract``.
"""

from __future__ import annotations

from tiderace import DEFAULT_CHANNEL_LAYER
from tiderace.delivery.stream_hub import Listener
from tiderace.exceptions import ChannelFull, InvalidChannelLayerError
from tiderace.layers.base import BaseChannelLayer, LocalDelivery
from tiderace.layers.broker import Retention
from tiderace.layers.manager import (
    ChannelLayerManager,
    channel_layers,
    get_channel_layer,
)
from tiderace.layers.memory import InMemoryChannelLayer
from tiderace.layers.names import group_name

__all__ = [
    "DEFAULT_CHANNEL_LAYER",
    "BaseChannelLayer",
    "ChannelFull",
    "ChannelLayerManager",
    "InMemoryChannelLayer",
    "InvalidChannelLayerError",
    "Listener",
    "LocalDelivery",
    "Retention",
    "channel_layers",
    "get_channel_layer",
    "group_name",
]
