"""Finds the names in Tiderace for those of Channels."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable

from tiderace.compat.finder import ALIASES, new_name

__all__ = [
    "OLD_PACKAGES",
    "is_old",
    "missing_names",
    "new_module",
    "new_string",
    "why_gone",
]

OLD_PACKAGES = ("channels", "channels_redis")

# Names that are in another module of Tiderace than the rest of their module.
_MOVED = {
    ("channels.apps", "ChannelsConfig"): "tiderace.apps.TideraceConfig",
    ("channels.utils", "await_many_dispatch"): "tiderace.consumer.await_many_dispatch",
    ("channels_redis.core", "ChannelFull"): "tiderace.exceptions.ChannelFull",
    ("channels_redis.core", "RedisChannelLayer"): (
        "tiderace.layers.redis.RedisChannelLayer"
    ),
    ("channels_redis.pubsub", "RedisPubSubChannelLayer"): (
        "tiderace.layers.redis.RedisPubSubChannelLayer"
    ),
}

# Why a module has no new name: Channels has removed it, or Tiderace does not offer it.
_REMOVED = "Channels 4 does not have it either"
_FIRST_VERSION = "it is of Channels 1; move to Channels 4 first"
_GONE = {
    "channels.apps": "the app is tiderace.apps.TideraceConfig",
    "channels.asgi": _FIRST_VERSION,
    "channels.binding": _FIRST_VERSION,
    "channels.generic.websockets": _FIRST_VERSION,
    "channels.handler": _FIRST_VERSION,
    "channels.http": f"{_REMOVED}: use django.core.asgi.get_asgi_application()",
    "channels.log": _REMOVED,
    "channels.staticfiles": f"{_REMOVED}: runserver serves static files",
    "channels.test": _FIRST_VERSION,
    "daphne.cli": "the server is uvicorn; start it with its own command",
}
_FIRST_VERSION_NAMES = {
    "channels": {"Channel", "Group", "include", "route", "route_class"},
    "channels.auth": {
        "channel_session_user",
        "channel_session_user_from_http",
        "http_session_user",
    },
    "channels.sessions": {"channel_session", "enforce_ordering", "http_session"},
}


def is_old(dotted: str) -> bool:
    """Return whether a dotted name is one of Channels or channels_redis."""
    return dotted.partition(".")[0] in OLD_PACKAGES


def new_module(old: str, names: Iterable[str] = ()) -> str | None:
    """Return the module of Tiderace that has ``names`` of the module ``old``.

    None if there is none, or the names are in several.
    """
    names = list(names)
    moved = {_MOVED.get((old, name), "").rpartition(".")[0] for name in names}
    kept = all(_MOVED.get((old, name), "").endswith(f".{name}") for name in names)
    if len(moved) == 1 and kept:
        return moved.pop()
    if old == "channels":
        aliased = (ALIASES.get(f"channels.{name}") for name in names)
        of_package = zip(names, aliased, strict=True)
        same = all(
            name == "DEFAULT_CHANNEL_LAYER" or alias == f"tiderace.{name}"
            for name, alias in of_package
        )
        return "tiderace" if names and same else None
    new = new_name(old)
    if new is None or not _exists(new) or missing_names(new, names):
        return None
    return new


def missing_names(new: str, names: Iterable[str]) -> list[str]:
    """Return which of ``names`` the module ``new`` of Tiderace does not have."""
    return [name for name in names if name != "*" and not _has(new, name)]


def new_string(dotted: str) -> str | None:
    """Return the new form of a dotted path in a string, None where there is none.

    The path of a module, or of a name in it, as in ``mock.patch()``.
    """
    if (new := new_module(dotted)) is not None:
        return new
    module, _, name = dotted.rpartition(".")
    while module:
        first = name.partition(".")[0]
        if moved := _MOVED.get((module, first)):
            return f"{moved}{name.removeprefix(first)}"
        if (new := new_module(module, [first])) is not None:
            return f"{new}.{name}"
        module, _, last = module.rpartition(".")
        name = f"{last}.{name}"
    return None


def why_gone(module: str, names: Iterable[str] = ()) -> str | None:
    """Return why a module or a name in it does not exist, as far as it is known."""
    old = module
    while old:
        if old in _GONE:
            return _GONE[old]
        old = old.rpartition(".")[0]
    if _FIRST_VERSION_NAMES.get(module, set()).intersection(names):
        return _FIRST_VERSION
    return None


def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _has(module: str, name: str) -> bool:
    if _exists(f"{module}.{name}"):
        return True
    try:
        return hasattr(importlib.import_module(module), name)
    except Exception:  # needs settings or an extra: that the module exists must do
        return True
