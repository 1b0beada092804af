"""The channel layers over Redis and Valkey.

::

    CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "tiderace.layers.redis.RedisChannelLayer",
            "CONFIG": {"hosts": ["redis://localhost:6379/0"]},
        },
    }
"""

from __future__ import annotations

try:
    from tiderace.layers.redis.layer import (
        RedisChannelLayer,
        RedisPubSubChannelLayer,
    )
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in ("redis", "hiredis"):
        raise
    raise ImportError(
        f"the layer over Redis needs the package {error.name}, which is not installed; "
        'install it with: pip install "tiderace[redis]"'
    ) from error

__all__ = ["RedisChannelLayer", "RedisPubSubChannelLayer"]
