"""Sets up the database, runs the server, and prints how to use the demo."""

from __future__ import annotations

import contextlib
import http.client
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import django
import uvicorn
from django.conf import settings
from django.core.management import call_command

from tiderace.server.development import bind
from tiderace.server.http import HttpProtocol
from tiderace.server.protocol import WebSocketProtocol


def serve(host: str, port: int, *, workers: int = 1) -> None:
    """Migrate, seed and serve until interrupted; port 0 takes any free one.

    Args:
        host: the address to listen on.
        port: the port.
        workers: number of processes; more than one need a shared layer.

    Raises:
        OSError: first, when the address cannot be bound.
        SystemExit: when the application did not start; the log contains the reason.
        KeyboardInterrupt: after a graceful stop by Ctrl+C.
    """
    # uvicorn binds again; this raises the documented error.
    with bind(host, port) as probe:
        port = probe.getsockname()[1]
    # How many there are decides what the page "Break it" may break.
    os.environ["TIDERACE_DEMO_WORKERS"] = str(workers)
    django.setup()
    call_command("migrate", verbosity=0, interactive=False)
    # The application first: it says that this process serves sockets.
    from tiderace.demo import asgi  # noqa: F401
    from tiderace.demo.seed import seed

    seed()
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    address = f"[{here}]:{port}" if ":" in here else f"{here}:{port}"
    greeting = threading.Thread(
        target=_greet_when_answered, args=(address, workers), daemon=True
    )
    greeting.start()
    with _simulator(f"http://{address}"):
        uvicorn.run(
            "tiderace.demo.asgi:application",
            host=host,
            port=port,
            workers=workers,
            http=HttpProtocol,
            ws=WebSocketProtocol,
            ws_per_message_deflate=False,
            ws_max_size=1 << 20,
            timeout_graceful_shutdown=3,
            # All processes start at once, perhaps on a slow machine.
            timeout_worker_healthcheck=60,
            log_config=None,
            access_log=False,
        )


@contextlib.contextmanager
def _simulator(url: str) -> Iterator[None]:
    """Run the simulated devices in a process of their own."""
    if not settings.BOTS:
        yield
        return
    command = [sys.executable, "-m", "tiderace.demo.manage", "simulate", "--url", url]
    process = subprocess.Popen(command)  # noqa: S603 - our own line
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def _greet_when_answered(address: str, workers: int) -> None:
    """Print the greeting once a process answers."""
    for _ in range(600):
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection(address, timeout=10)
            with contextlib.closing(connection):
                connection.request("HEAD", "/login/")
                connection.getresponse().read()
            _greet(address, workers)
            return
        time.sleep(0.1)


def _greet(address: str, workers: int) -> None:
    from tiderace.demo.people.person import SEEDED, STAFF

    lines = [
        "",
        f"  The Tiderace demo runs at http://{address}/",
        *([f"  in {workers} processes that share a layer."] if workers > 1 else []),
        "",
        "  Open it in two windows, one of them private, and log in as two people:",
        *(f"    {name:<6} password {password}" for name, password in SEEDED.items()),
        "  or enter as a guest under any other name. Ctrl+C stops it.",
        "",
        f"  Who is connected is shown at http://{address}/admin/tiderace/connections/",
        *(f"  to {name}, password {password}" for name, password in STAFF.items()),
        "",
    ]
    print("\n".join(lines), flush=True)  # noqa: T201
