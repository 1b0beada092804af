"""Sets up the database, runs the server, and prints how to use the demo."""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from functools import partial

import django
import uvicorn
from django.core.management import call_command

from tiderace.server.development import DevelopmentServer, ServerOptions, bind
from tiderace.server.protocol import WebSocketProtocol

__all__ = ["serve"]

_OPTIONS = ServerOptions(graceful_timeout=3, max_message_size=1 << 20)


def serve(host: str, port: int, *, workers: int = 1) -> None:
    """Migrate, seed and serve until interrupted; port 0 takes any free one.

    Args:
        host: the address to listen on.
        port: the port.
        workers: number of processes; more than one need a shared layer.

    Raises:
        OSError: first, when the address cannot be bound.
        StartupFailed: when the application did not start; the log contains the reason.
        KeyboardInterrupt: after a graceful stop by Ctrl+C.
    """
    if workers > 1:
        _serve_with_workers(host, port, workers)
        return
    server = DevelopmentServer(host, port, options=_OPTIONS)
    try:
        _prepare()
        # After the setup, since it imports the consumers.
        from tiderace.demo.asgi import application

        server.run(application, on_ready=partial(_greet, host, server.port))
    finally:
        server.close()


def _prepare() -> None:
    """Set up the database."""
    django.setup()
    call_command("migrate", verbosity=0, interactive=False)
    from tiderace.demo.seed import seed

    seed()


def _serve_with_workers(host: str, port: int, workers: int) -> None:
    """Serve with several processes that share a listening socket."""
    # uvicorn binds again; this raises the documented error.
    with bind(host, port) as probe:
        port = probe.getsockname()[1]
    _prepare()
    greeting = threading.Thread(
        target=_greet_when_answered, args=(host, port, workers), daemon=True
    )
    greeting.start()
    uvicorn.run(
        "tiderace.demo.asgi:application",
        host=host,
        port=port,
        workers=workers,
        ws=WebSocketProtocol,
        ws_per_message_deflate=False,
        ws_max_size=_OPTIONS.max_message_size,
        timeout_graceful_shutdown=_OPTIONS.graceful_timeout,
        # All processes start at once, perhaps on a slow machine.
        timeout_worker_healthcheck=60,
        log_config=None,
        access_log=False,
    )


def _greet_when_answered(host: str, port: int, workers: int) -> None:
    """Print the greeting once a process answers."""
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    for _ in range(600):
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection(here, port, timeout=10)
            with contextlib.closing(connection):
                connection.request("HEAD", "/login/")
                connection.getresponse().read()
            _greet(host, port, workers)
            return
        time.sleep(0.1)


def _greet(host: str, port: int, workers: int = 1) -> None:
    from tiderace.demo.people.person import SEEDED, STAFF

    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    shown = f"[{shown}]" if ":" in shown else shown
    lines = [
        "",
        f"  The Tiderace demo runs at http://{shown}:{port}/",
        *([f"  in {workers} processes that share a layer."] if workers > 1 else []),
        "",
        "  Open it in two windows, one of them private, and log in as two people:",
        *(f"    {name:<6} password {password}" for name, password in SEEDED.items()),
        "  or enter as a guest under any other name. Ctrl+C stops it.",
        "",
        f"  Who is connected is shown at http://{shown}:{port}/admin/tiderace/connections/",
        *(f"  to {name}, password {password}" for name, password in STAFF.items()),
        "",
    ]
    print("\n".join(lines), flush=True)  # noqa: T201
