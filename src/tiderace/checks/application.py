"""System checks of routes, keys, caches, database connections and installed packages."""

from __future__ import annotations

import importlib.metadata
import inspect
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.cache.backends.locmem import LocMemCache
from django.core.checks import CheckMessage, Error, Warning  # noqa: A004 (Django's name)
from django.utils.module_loading import import_string

from tiderace import conf
from tiderace.checks import check
from tiderace.compat.finder import AliasFinder
from tiderace.layers import InMemoryChannelLayer
from tiderace.layers.isolation import ADVICE
from tiderace.layers.manager import channel_layers
from tiderace.route_inspection import websocket_routes

_PACKAGE = Path(__file__).parents[1]

# The oldest version of each server in the test matrix.
_OLDEST = {
    "hypercorn": (0, 17),
    "granian": (2, 2),
    "daphne": (4, 2),
    "gunicorn": (23,),
    "uvicorn-worker": (0, 3),
}
_MAX_PATHS = 5  # in one message
# The keys in the guides.
_PLACEHOLDERS = frozenset(
    {
        "at least 32 random bytes, of your own",
        "for development",
        "replace-this-key-0123",
        "the key before it, while tokens live",
    }
)


@check()
def check_persistent_connections() -> Iterator[CheckMessage]:
    """Warn of database connections that persist between requests under ASGI."""
    if not getattr(settings, "ASGI_APPLICATION", None):
        return
    persistent = {
        alias: database["CONN_MAX_AGE"]
        for alias, database in settings.DATABASES.items()
        if database.get("CONN_MAX_AGE", 0) != 0
    }
    if not persistent:
        return
    named = ", ".join(f"{alias!r}: {age}" for alias, age in persistent.items())
    yield Warning(
        f"CONN_MAX_AGE is not 0 ({named}). Under ASGI every thread that has used "
        "the database keeps a connection of its own, also while it is idle, so a "
        "few processes use up what the server allows.",
        hint="Set CONN_MAX_AGE to 0, and let a pool keep connections: "
        '"OPTIONS": {"pool": True} for PostgreSQL, or PgBouncer.',
        id="tiderace.W014",
    )


@check()
def check_memory_layer_with_workers() -> Iterator[CheckMessage]:
    """Refuse an in-memory layer when the environment sets several workers."""
    workers = os.environ.get("WEB_CONCURRENCY", "")
    if not workers.isdecimal() or int(workers) < 2:
        return
    in_memory = layers_in_memory()
    if in_memory:
        yield Error(
            f"WEB_CONCURRENCY asks for {workers} processes, and the channel layer "
            f"{', '.join(in_memory)} is in memory: what one process sends, sockets in "
            "the others do not get.",
            hint=f"Start one process, or {ADVICE}.",
            id="tiderace.E015",
        )


@check()
def check_channels_shadowed() -> Iterator[CheckMessage]:
    """Warn when Channels is installed but its name is an alias of Tiderace."""
    if not any(isinstance(finder, AliasFinder) for finder in sys.meta_path):
        return
    shadowed = [
        f"{name} {version}"
        for name in ("channels", "channels-redis")
        if (version := installed_version(name)) is not None
    ]
    if shadowed:
        yield Warning(
            f"{' and '.join(shadowed)} is installed, but install_as_channels() makes "
            "its name an alias of Tiderace: what is installed is never imported.",
            hint="Uninstall it to avoid confusion: pip uninstall channels channels-redis",
            id="tiderace.W017",
        )


@check()
def check_channels_app() -> Iterator[CheckMessage]:
    """Warn when the real Channels is an app of the project too."""
    if real_package("channels"):
        yield Warning(
            'The real "channels" is in INSTALLED_APPS beside Tiderace: consumers and '
            "layers of the two do not work together, and commands come from the one "
            "that is listed first.",
            hint="Call tiderace.install_as_channels() in the project package's "
            '__init__.py, or import from tiderace and remove "channels".',
            id="tiderace.W018",
        )


@check()
def check_servers() -> Iterator[CheckMessage]:
    """Warn of installed ASGI servers older than those in the test matrix."""
    for name, oldest in _OLDEST.items():
        version = installed_version(name)
        if version is not None and version_numbers(version) < oldest:
            wanted = ".".join(map(str, oldest))
            yield Warning(
                f"{name} {version} is older than {wanted}, the oldest that Tiderace is "
                "tested with.",
                hint=f'pip install --upgrade "{name}>={wanted}"',
                id="tiderace.W019",
            )


@check()
def check_open_api() -> Iterator[CheckMessage]:
    """Warn when the HTTP API of topics is open outside of development."""
    values = _valid_settings()
    if values and values.topics.api_open and not settings.DEBUG:
        yield Warning(
            'TIDERACE["TOPICS"]["API_OPEN"] gives every client of the HTTP API the right '
            "to publish to all topics, read them and close connections.",
            hint="Remove it, and set API_KEYS.",
            id="tiderace.W020",
        )


@check()
def check_placeholder_keys() -> Iterator[CheckMessage]:
    """Refuse keys that were copied from the documentation, which is public."""
    option = "symmetric_encryption_keys"
    keys = {}
    for alias, entry in layer_entries():
        config = entry.get("CONFIG")
        if isinstance(config, Mapping):
            keys[f"CHANNEL_LAYERS[{alias!r}]['CONFIG'][{option!r}]"] = config.get(
                option
            )
    if values := _valid_settings():
        keys["TIDERACE['TOKEN_KEYS']"] = [each.key for each in values.token_keys]
        keys["TIDERACE['TOPICS']['API_KEYS']"] = values.topics.api_keys
    for name, found in keys.items():
        if any(_is_placeholder(key) for key in found or ()):
            yield Error(
                f"{name} has a key of Tiderace's documentation, which is public.",
                hint="Make one of your own: python -c "
                "'import secrets; print(secrets.token_urlsafe(32))'",
                id="tiderace.E021",
            )


def _is_placeholder(key: Any) -> bool:
    text = key.decode("latin1") if isinstance(key, bytes) else str(key)
    return text.strip().lower() in _PLACEHOLDERS


@check(deploy=True)
def check_ticket_cache() -> Iterator[CheckMessage]:
    """Check that all processes share the cache of used tickets (``--deploy``)."""
    values = _valid_settings()
    if values is None:
        return
    alias = values.ticket_cache
    cache = settings.CACHES.get(alias)
    if cache is None:
        yield Error(
            f"TIDERACE['TICKET_CACHE'] is {alias!r}, which is none of CACHES: no ticket "
            "can be used.",
            hint="Name one of CACHES that all processes share.",
            id="tiderace.E023",
        )
        return
    workers = os.environ.get("WEB_CONCURRENCY", "")
    several = workers.isdecimal() and int(workers) > 1
    in_one_process = len(layers_in_memory()) == len(channel_layers.configs)
    local = _is_a(cache.get("BACKEND"), LocMemCache)
    if local and not settings.DEBUG and (several or not in_one_process):
        yield Warning(
            f"The cache {alias!r} is each process's own: a one-time ticket can be used "
            + (f"once in each of {workers}." if several else "once in each process."),
            hint="If you hand out tickets, name a cache that all processes share in "
            "TIDERACE['TICKET_CACHE'], such as Django's RedisCache.",
            id="tiderace.W022",
        )


@check(deploy=True)
def check_origins() -> Iterator[CheckMessage]:
    """Warn of WebSocket routes without a check of the origin (``--deploy``)."""
    path = getattr(settings, "ASGI_APPLICATION", None)
    if not path:
        return
    try:
        application = import_string(path)
    except Exception:
        # Other checks or the server report the error.
        return
    if routes := websocket_routes(application, _checks_origins):
        paths = ", ".join(route.path for route in routes[:_MAX_PATHS])
        more = len(routes) - _MAX_PATHS
        paths += f" and {more} more" if more > 0 else ""
        yield Warning(
            f"Nothing checks which pages may open the WebSockets {paths}: any site can "
            "open them in a visitor's browser, with that visitor's cookies.",
            hint="Wrap the routes in AllowedHostsOriginValidator of "
            "tiderace.security.websocket, or let tiderace.routing.get_application() "
            "build the application.",
            id="tiderace.W013",
        )


def layers_in_memory() -> list[str]:
    """Return the aliases, quoted, of the in-memory layers in ``CHANNEL_LAYERS``."""
    return [
        repr(alias)
        for alias, entry in layer_entries()
        if _is_a(entry.get("BACKEND"), InMemoryChannelLayer)
    ]


def layer_entries() -> Iterator[tuple[Any, Mapping[str, Any]]]:
    """Yield the well-formed entries of ``CHANNEL_LAYERS``; E004 reports the others."""
    layers = getattr(settings, "CHANNEL_LAYERS", {})
    if isinstance(layers, Mapping):
        yield from (item for item in layers.items() if isinstance(item[1], Mapping))


def _valid_settings() -> conf.Settings | None:
    """Return Tiderace's settings; None for invalid ones, which E009 reports."""
    try:
        return conf.current()
    except conf.UnknownSetting:
        return None


def real_package(name: str) -> bool:
    """Return whether ``name`` is an app of the project and not the stand-in for it."""
    try:
        config = apps.get_app_config(name)
    except LookupError:
        return False
    return _PACKAGE not in Path(inspect.getfile(type(config))).parents


def _is_a(path: Any, kind: type[Any]) -> bool:
    """Return whether a dotted path is that of a subclass of ``kind``."""
    try:
        backend = import_string(path)
    except (ImportError, AttributeError, TypeError):
        return False  # reported by check_channel_layers, or raised by Django
    return inspect.isclass(backend) and issubclass(backend, kind)


def _checks_origins(application: Any) -> bool:
    # An endpoint of topics checks origins itself. The class is compared by name, so
    # that the validator of the real Channels counts too.
    return hasattr(application, "endpoint_class") or any(
        base.__name__ == "OriginValidator" for base in type(application).__mro__
    )


def installed_version(name: str) -> str | None:
    """Return the version of the distribution ``name``, None when not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def version_numbers(version: str) -> tuple[int, ...]:
    """Return the first three numbers in ``version``."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])
