"""The options of a connection, as ``hosts`` gives them and as redis-py takes them.

It knows the classes of redis-py and what may be given to them, and opens no connection.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from tiderace.conf import nearest

__all__ = [
    "COMMAND_TIMEOUT",
    "CONNECT_TIMEOUT",
    "Host",
    "Library",
    "kind_of_connection",
    "library",
    "parameters_of",
    "parsed",
    "refuse_unknown",
    "set_defaults",
]

Host = dict[str, Any]

COMMAND_TIMEOUT = 5.0
"""Seconds a command may take. redis-py's own default depends on its version: none before
8.0, five seconds since."""

CONNECT_TIMEOUT = 2.0
"""Seconds to reach a server at most: a lost first packet is sent again after one."""

_SCHEMES = {"valkey": "redis", "valkeys": "rediss"}

# What people write for want of the right word, which no likeness of letters finds.
_MEANT = {
    "url": "address",
    "uri": "address",
    "location": "address",
    "user": "username",
    "database": "db",
    "service_name": "master_name",
    "unix_socket_path": "path",
    "tls": "ssl",
    "nodes": "startup_nodes",
}


# redis-py, in its two kinds


class Library:
    """The names of redis-py that differ between asyncio and blocking code."""

    def __init__(self, kind: Any, *, sync: bool) -> None:
        self.sync = sync
        self.connection = kind.connection
        self.sentinel = kind.sentinel
        self.cluster = kind.cluster
        self.client = kind.Redis
        self.retry = kind.retry.Retry


def library(*, sync: bool) -> Library:
    """redis-py, imported when it is first needed.

    Raises:
        ImportError: when it is not installed, with what to do.
    """
    try:
        import redis
        import redis.asyncio.cluster
        import redis.asyncio.retry
        import redis.asyncio.sentinel
        import redis.cluster
        import redis.retry
        import redis.sentinel
    except ImportError as error:
        raise ImportError(
            "a layer over Redis or Valkey needs the package redis (redis-py, 5.0.1 or "
            f"newer), which cannot be imported ({error}); "
            'run: python -m pip install "tiderace[redis]"'
        ) from error
    return Library(redis if sync else redis.asyncio, sync=sync)


def parsed(host: Host, *, sync: bool) -> Host:
    """A copy of an entry in which the URL has become options.

    Raises:
        ValueError: for a URL that is none.
        TypeError: for an asyncio class that has no blocking twin.
    """
    options = dict(host)
    address = options.pop("address", None)
    if address is not None:
        # As in redis-py, what the URL says wins.
        options.update(library(sync=sync).connection.parse_url(_url(address)))
    if sync:
        _make_blocking(options)
    return options


def _url(address: Any) -> str:
    scheme, mark, rest = str(address).partition("://")
    if not mark:
        # Not quoted: it may hold a password.
        raise ValueError(
            "an address in hosts has no scheme; write redis://host:6379/0, "
            "rediss:// for TLS, or unix:///path/to/socket"
        )
    return f"{_SCHEMES.get(scheme, scheme)}://{rest}"


def _make_blocking(options: Host) -> None:
    """Put blocking things in the place of what an entry names for asyncio."""
    import redis
    import redis.asyncio.retry

    if isinstance(options.get("retry"), redis.asyncio.retry.Retry):
        # It waits on an event loop; without it the caller decides, as by default.
        del options["retry"]
    kind = options.get("connection_class")
    if kind is None or issubclass(kind, redis.connection.AbstractConnection):
        return
    twin = getattr(redis.connection, kind.__name__, None)
    if twin is None or not kind.__module__.startswith("redis."):
        raise TypeError(
            f"hosts names connection_class {kind.__qualname__}, which is for asyncio; "
            "synchronous code has no connection like it. Leave it out, or use the layer "
            "from asynchronous code alone"
        )
    options["connection_class"] = twin


def kind_of_connection(options: Host, module: Any) -> Any:
    """Take out of ``options`` what decides it."""
    named, tls = options.pop("connection_class", None), options.pop("ssl", False)
    if named is not None:
        return named
    if "path" in options:
        return module.UnixDomainSocketConnection
    return module.SSLConnection if tls else module.Connection


def set_defaults(options: Host, connection_class: Any, timeout: float) -> None:
    """Add to ``options`` what redis-py's versions differ in, where nothing is said.

    Args:
        options: changed in place.
        connection_class: it decides which of them there are.
        timeout: seconds, for a command.
    """
    defaults = {
        "socket_timeout": timeout,
        "socket_connect_timeout": min(timeout, CONNECT_TIMEOUT),
        "socket_keepalive": True,
        # RESP2 says all we need, every server speaks it, and it opens with fewer words.
        "protocol": 2,
    }
    known = parameters_of(connection_class)
    for name, value in defaults.items():
        if name in known:
            options.setdefault(name, value)


def refuse_unknown(
    options: Mapping[str, Any], classes: list[Any], more: set[str]
) -> None:
    """Check that all of ``options`` exist, since redis-py says so too late or never.

    Args:
        options: those of one entry.
        classes: of redis-py; what may be given to them or their parents is known. With
            a first one that is not from redis-py everything is.
        more: further known names.

    Raises:
        TypeError: for one that does not, with the nearest that does.
    """
    if not classes[0].__module__.startswith("redis."):
        return  # what a class of the project's own takes is for it to say
    known = more.union(*map(parameters_of, classes))
    for name in options:
        if name not in known:
            meant = _MEANT.get(name)
            hint = f"; did you mean {meant!r}?" if meant else nearest(name, known)
            raise TypeError(
                f"an entry of hosts has the option {name!r}, which "
                f"{classes[0].__name__} of redis-py does not have{hint}"
            )


# Given by position, and called something else in `hosts`.
_NOT_FOR_CONFIG = {"self", "service_name", "sentinel_manager"}


def parameters_of(kind: Any) -> set[str]:
    """What may be given to a class by keyword, those of its parents included."""
    names: set[str] = set()
    for part in kind.__mro__:
        if "__init__" not in vars(part):
            continue
        parameters = inspect.signature(part.__init__).parameters.values()
        names |= {
            parameter.name
            for parameter in parameters
            if parameter.kind
            in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        }
        if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
            break
    return names - _NOT_FOR_CONFIG
