"""The channel layers over Redis and Valkey.

CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "tiderace.layers.redis.RedisChannelLayer",
        "CONFIG": {"hosts": ["redis://localhost:6379/0"]},
    },
}
"""

from __future__ import annotations

from tiderace.layers.redis.layer import RedisChannelLayer, RedisPubSubChannelLayer

__all__ = ["RedisChannelLayer", "RedisPubSubChannelLayer"]
