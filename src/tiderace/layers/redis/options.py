"""Checks the options of connections in ``hosts``, and translates them for redis-py."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from tiderace.conf import nearest

Host = dict[str, Any]

COMMAND_TIMEOUT = 5.0
"""Seconds a command may take, as in redis-py 8.0; older versions have no limit."""

CONNECT_TIMEOUT = 2.0
"""Seconds to connect, at most: a lost first packet is sent again after one."""

# The size of a pool. redis-py 8 by default refuses the 101st connection, older versions
# none; the callers limit how many commands run at once.
UNLIMITED_CONNECTIONS = 2**31

_SCHEMES = {"valkey": "redis", "valkeys": "rediss"}

# Names from other libraries that are not spelt like the right one.
_SYNONYMS = {
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


class RedisPy:
    """The modules and classes of redis-py for asyncio, or those for blocking code."""

    def __init__(self, package: Any, *, sync: bool) -> None:
        self.sync = sync
        self.connection = package.connection
        self.sentinel = package.sentinel
        self.cluster = package.cluster
        self.client = package.Redis
        self.retry = package.retry.Retry


def import_redis_py(*, sync: bool) -> RedisPy:
    """Import redis-py, at the first use of a server.

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
    return RedisPy(redis if sync else redis.asyncio, sync=sync)


def expand_address(host: Host, *, sync: bool) -> Host:
    """Return a copy of an entry with options in place of its URL.

    Raises:
        ValueError: for an invalid URL.
        TypeError: for an asyncio class without a blocking counterpart.
    """
    options = dict(host)
    address = options.pop("address", None)
    if address is not None:
        # As in redis-py, the URL takes precedence.
        options.update(import_redis_py(sync=sync).connection.parse_url(_url(address)))
    if sync:
        _make_blocking(options)
    return options


def _url(address: Any) -> str:
    scheme, mark, rest = str(address).partition("://")
    if not mark:
        # The address is not quoted: it may contain a password.
        raise ValueError(
            "an address in hosts has no scheme; write redis://host:6379/0, "
            "rediss:// for TLS, or unix:///path/to/socket"
        )
    return f"{_SCHEMES.get(scheme, scheme)}://{rest}"


def _make_blocking(options: Host) -> None:
    """Replace the asyncio classes in an entry by their blocking counterparts."""
    import redis
    import redis.asyncio.retry

    if isinstance(options.get("retry"), redis.asyncio.retry.Retry):
        # A Retry of asyncio sleeps in an event loop; without one the caller retries.
        del options["retry"]
    given = options.get("connection_class")
    if given is None or issubclass(given, redis.connection.AbstractConnection):
        return
    blocking = getattr(redis.connection, given.__name__, None)
    if blocking is None or not given.__module__.startswith("redis."):
        raise TypeError(
            f"hosts names connection_class {given.__qualname__}, which is for asyncio; "
            "synchronous code has no connection like it. Leave it out, or use the layer "
            "from asynchronous code alone"
        )
    options["connection_class"] = blocking


def pop_connection_class(options: Host, module: Any) -> Any:
    """Return the connection class, and remove the options that select it."""
    given, tls = options.pop("connection_class", None), options.pop("ssl", False)
    if given is not None:
        return given
    if "path" in options:
        return module.UnixDomainSocketConnection
    return module.SSLConnection if tls else module.Connection


def set_defaults(options: Host, connection_class: Any, timeout: float) -> None:
    """Set defaults where those of redis-py depend on its version.

    Args:
        options: changed in place.
        connection_class: options that it does not take are left out.
        timeout: seconds, for a command.
    """
    defaults = {
        "socket_timeout": timeout,
        "socket_connect_timeout": min(timeout, CONNECT_TIMEOUT),
        "socket_keepalive": True,
        # RESP2 suffices, every server speaks it, and its handshake is shorter.
        "protocol": 2,
    }
    known = keyword_parameters(connection_class)
    for name, value in defaults.items():
        if name in known:
            options.setdefault(name, value)


def refuse_unknown(
    options: Mapping[str, Any], classes: list[Any], more: set[str]
) -> None:
    """Check that all options exist; redis-py does so at the first connection, or never.

    Args:
        options: the options of one entry.
        classes: classes of redis-py whose parameters are options. When the first is the
            application's own, nothing is checked.
        more: further options.

    Raises:
        TypeError: for an unknown option, with the nearest known one.
    """
    if not classes[0].__module__.startswith("redis."):
        return
    known = more.union(*map(keyword_parameters, classes))
    for name in options:
        if name not in known:
            right = _SYNONYMS.get(name)
            hint = f"; did you mean {right!r}?" if right else nearest(name, known)
            raise TypeError(
                f"an entry of hosts has the option {name!r}, which "
                f"{classes[0].__name__} of redis-py does not have{hint}"
            )


# Parameters that are passed by position, and have another name in `hosts`.
_NOT_OPTIONS = {"self", "service_name", "sentinel_manager"}


def keyword_parameters(kind: Any) -> set[str]:
    """Return the keyword parameters of a class and its parents."""
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
    return names - _NOT_OPTIONS
