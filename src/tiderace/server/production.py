"""Runs an application on uvicorn in one or several processes, for ``tiderace_serve``.

Without uvicorn the import fails, with a message that names the extra.
"""

from __future__ import annotations

import contextlib
import re
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tiderace.server.development import bind  # first: it names what is missing
from tiderace.server.http import HttpProtocol
from tiderace.server.protocol import WebSocketProtocol

# isort: split
import uvicorn
from uvicorn.supervisors import Multiprocess

if TYPE_CHECKING:
    from tiderace.asgi import ASGIApp

__all__ = ["NotAnAddress", "listen", "serve"]

# Seconds that requests have to end after the drain, as in the deployment guide.
_GRACEFUL_TIMEOUT = 5
# Seconds in which a worker has to answer its parent: all start at once, perhaps on a
# slow machine.
_WORKER_TIMEOUT = 60


class NotAnAddress(ValueError):
    """The text is no address that a server can listen on."""


def listen(address: str) -> socket.socket:
    """Open a listening socket.

    Args:
        address: ``PORT``, ``HOST:PORT``, ``[IPV6]:PORT`` or ``unix:PATH``. A Unix socket
            that no process listens to is replaced; everyone who can enter its folder may
            open it.

    Raises:
        NotAnAddress: it has none of these forms.
        OSError: it is taken, not allowed, or not of this machine.
    """
    if found := re.fullmatch(r"unix:(?://)?(.+)", address):
        return _listen_at(Path(found[1]))
    found = re.fullmatch(r"(?:(?P<host>[^:]*|\[.*\]):)?(?P<port>\d+)", address)
    if found is None or int(found["port"]) > 65535:
        raise NotAnAddress(
            f"{address!r}; write PORT, HOST:PORT, [IPV6]:PORT or unix:PATH"
        )
    return bind((found["host"] or "127.0.0.1").strip("[]"), int(found["port"]))


def _listen_at(path: Path) -> socket.socket:
    with contextlib.suppress(FileNotFoundError), socket.socket(socket.AF_UNIX) as probe:
        if stat.S_ISSOCK(path.stat().st_mode):
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(str(path))
        # As in uvicorn: the permissions of the folder decide who may connect.
        path.chmod(0o666)
    except OSError:
        listener.close()
        raise
    return listener


def serve(
    factory: Callable[[], ASGIApp],
    listener: socket.socket,
    *,
    workers: int,
    max_message_size: int,
) -> bool:
    """Serve until SIGTERM or SIGINT; return whether the application has started.

    Args:
        factory: makes the application, in each process; it can be pickled.
        listener: is shared by the processes.
        workers: the number of processes; with 1, this one.
        max_message_size: bytes of the largest WebSocket message taken from a client.
    """
    at_path = listener.family == socket.AF_UNIX
    config = uvicorn.Config(
        factory,
        factory=True,
        workers=workers,
        http=HttpProtocol,
        ws=WebSocketProtocol,
        # WebSocketProtocol does not compress, and would log that it was asked to.
        ws_per_message_deflate=False,
        ws_max_size=max_message_size,
        timeout_graceful_shutdown=_GRACEFUL_TIMEOUT,
        timeout_worker_healthcheck=_WORKER_TIMEOUT,
        # Clients of a Unix socket have no address; who may open it is trusted.
        forwarded_allow_ips="*" if at_path else None,
        # Logging is the project's; uvicorn's loggers propagate to it.
        log_config=None,
        access_log=False,
    )
    if workers > 1:
        listener.set_inheritable(True)
        Multiprocess(config, sockets=[listener]).run()
        return True
    server = uvicorn.Server(config)
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listener])
    return server.started
