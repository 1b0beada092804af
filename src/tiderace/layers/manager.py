"""The layers of ``CHANNEL_LAYERS``, each made at its first use and kept."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.core.signals import setting_changed
from django.utils.module_loading import import_string

from tiderace import DEFAULT_CHANNEL_LAYER, conf
from tiderace.exceptions import InvalidChannelLayerError
from tiderace.runtime.lifespan import on_shutdown
from tiderace.runtime.readiness import ready_check

# Seconds that a layer may take to reach its broker before its process is not ready.
_CONNECT_TIME = 2.0

_BACKENDS = (
    "tiderace.layers.InMemoryChannelLayer",
    "tiderace.layers.database.DatabaseChannelLayer",
    "tiderace.layers.redis.RedisChannelLayer",
    "tiderace.layers.redis.RedisPubSubChannelLayer",
)


class ChannelLayerManager:
    """The layers of this process by alias.

    ``backends`` holds the layers that were made; after it is emptied or replaced, they
    are made anew.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.backends: dict[str, Any] = {}
        self._clock = clock
        # When a layer was first seen without its broker.
        self._away_since: dict[str, float] = {}
        setting_changed.connect(self._reset_backends)

    def _reset_backends(self, setting: str, **kwargs: Any) -> None:
        if setting == "CHANNEL_LAYERS":
            self.backends = {}

    @property
    def configs(self) -> dict[str, dict[str, Any]]:
        """``CHANNEL_LAYERS``, or nothing while Django is not configured."""
        # Read at each use: this module is imported by asgi.py files and by scripts
        # before, or without, any settings.
        return getattr(settings, "CHANNEL_LAYERS", {}) if conf.configured() else {}

    def make_backend(self, name: str) -> Any:
        """Return a new layer from the CONFIG of ``name``."""
        return self._make_backend(name, self.configs[name].get("CONFIG", {}))

    def make_test_backend(self, name: str) -> Any:
        """Return a new layer from the TEST_CONFIG of ``name``.

        Raises:
            InvalidChannelLayerError: when it has none.
        """
        try:
            config = self.configs[name]["TEST_CONFIG"]
        except KeyError:
            raise InvalidChannelLayerError(
                f"No TEST_CONFIG specified for {name}"
            ) from None
        return self._make_backend(name, config)

    def _make_backend(self, name: str, config: dict[str, Any]) -> Any:
        if "ROUTING" in self.configs[name]:
            raise InvalidChannelLayerError(
                f"ROUTING key found for {name} - this is no longer needed; remove it"
            )
        try:
            path = self.configs[name]["BACKEND"]
        except KeyError:
            raise InvalidChannelLayerError(
                f"No BACKEND specified for {name}; add its dotted path to "
                f"CHANNEL_LAYERS[{name!r}]"
            ) from None
        try:
            backend_class = import_backend(path)
        except ImportError as error:
            raise InvalidChannelLayerError(
                f"Cannot import BACKEND {path!r} specified for {name}: {error}"
            ) from error
        return backend_class(**config)

    def __getitem__(self, key: str) -> Any:
        if key not in self.backends:
            self.backends[key] = self.make_backend(key)
        return self.backends[key]

    def __contains__(self, key: str) -> bool:
        return key in self.configs

    def set(self, key: str, layer: Any) -> Any:
        """Replace the layer for ``key``; return the one before, or None."""
        old = self.backends.get(key)
        self.backends[key] = layer
        return old

    def why_not_ready(self) -> str | None:
        """Return which layers of this process have had no broker for two seconds.

        Measured from the first call that found a layer without its broker. The wait is
        because a process connects for its first client, and must not be out of service
        for the second one.
        """
        now, away = self._clock(), []
        for alias, layer in self.backends.items():
            if layer_attribute(layer, "ready", True):
                self._away_since.pop(alias, None)
            elif now - self._away_since.setdefault(alias, now) >= _CONNECT_TIME:
                away.append(alias)
        return f"no connection to the broker of {', '.join(away)}" if away else None

    async def close(self) -> None:
        """Close the layers that were made in this process.

        They are kept: a test's live server may stop while other code uses them.

        Raises:
            ExceptionGroup: the errors of some layers, after all have been closed.
        """
        errors = []
        for layer in list(self.backends.values()):
            if close := layer_attribute(layer, "close"):
                try:
                    await close()
                except Exception as error:
                    errors.append(error)
        if errors:
            raise ExceptionGroup("closing channel layers failed", errors)


def layer_attribute(layer: Any, name: str, default: Any = None) -> Any:
    """Return an attribute that a layer of a third party may lack.

    ``default``, too, of a proxy over one layer for each event loop, whose
    ``__getattr__`` raises RuntimeError where no loop is running.
    """
    try:
        return getattr(layer, name, default)
    except RuntimeError:
        return default


channel_layers = ChannelLayerManager()
on_shutdown(channel_layers.close)
ready_check(channel_layers.why_not_ready)


def import_backend(path: str) -> Any:
    """Return the class of a layer by its dotted path.

    Raises:
        ImportError: with the layer of Tiderace whose path is most alike.
    """
    try:
        return import_string(path)
    except ImportError as error:
        suggestion = conf.nearest(path, _BACKENDS)
        raise ImportError(f"{error}{suggestion}") from error


def get_channel_layer(alias: str = DEFAULT_CHANNEL_LAYER) -> Any:
    """Return the layer configured as ``alias``, or None when there is none.

    Raises:
        InvalidChannelLayerError: when its configuration cannot be used.
    """
    if alias not in channel_layers.backends and alias not in channel_layers:
        return None
    return channel_layers[alias]
