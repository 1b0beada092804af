"""From nothing to a running demo: database, people, server, and what to do next.

It knows Django and our development server, and therefore needs uvicorn; it parses
no command line and sets no environment.
"""

from __future__ import annotations

from functools import partial

import django
from django.core.management import call_command

from tiderace.server.development import DevelopmentServer, ServerOptions

__all__ = ["serve"]

_OPTIONS = ServerOptions(graceful_timeout=3, max_message_size=1 << 20)


def serve(host: str, port: int) -> None:
    """Migrate, seed and serve until interrupted; port 0 takes any free one.

    Raises:
        OSError: before anything else is done, when the address cannot be had.
        StartupFailed: when the application did not start; the log says why.
        KeyboardInterrupt: after a graceful end by Ctrl+C.
    """
    server = DevelopmentServer(host, port, options=_OPTIONS)
    try:
        django.setup()
        call_command("migrate", verbosity=0, interactive=False)
        # Both need a set-up Django, the second because it imports the consumers.
        from tiderace.demo.asgi import application
        from tiderace.demo.seed import seed

        seed()
        server.run(application, on_ready=partial(_greet, host, server.port))
    finally:
        server.close()


def _greet(host: str, port: int) -> None:
    from tiderace.demo.people.person import SEEDED

    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    shown = f"[{shown}]" if ":" in shown else shown
    lines = [
        "",
        f"  The Tiderace demo runs at http://{shown}:{port}/",
        "",
        "  Open it in two windows, one of them private, and log in as two people:",
        *(f"    {name:<6} password {password}" for name, password in SEEDED.items()),
        "  or enter as a guest under any other name. Ctrl+C stops it.",
        "",
    ]
    print("\n".join(lines), flush=True)  # noqa: T201
