"""``manage.py tiderace_relay``: relays the outbox in a process of its own."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

from django.apps import apps
from django.core.management.base import BaseCommand, CommandError, CommandParser


class Command(BaseCommand):
    """Relays until SIGTERM or SIGINT."""

    help = (
        "Hands what publish() has written into the outbox to the layers of the topics, "
        "until it is stopped. Several may run, also beside servers: one is at work, and "
        "another takes over within seconds when it dies."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--database",
            action="append",
            metavar="ALIAS",
            help="Relay the outbox of this database only; may be repeated "
            "(default: all in which the routers allow one).",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Relay.

        Raises:
            CommandError: without the app of the outbox, and for an unknown alias.
        """
        if not apps.is_installed("tiderace.outbox"):
            raise CommandError(
                'there is no outbox: add "tiderace.outbox" to INSTALLED_APPS and run '
                "manage.py migrate"
            )
        # Its models can be imported only where its app is installed.
        from tiderace.outbox.rows import databases

        known = databases()
        aliases = options["database"] or known
        for alias in aliases:
            if alias not in known:
                raise CommandError(
                    f"there is no outbox in the database {alias!r}; there may be one in "
                    f"{', '.join(known)}"
                )
        asyncio.run(self._relay(aliases))

    async def _relay(self, aliases: list[str]) -> None:
        from tiderace.outbox.process import process_relays

        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            # Unlike add_signal_handler(), this works on Windows too.
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stopped.set))
        await process_relays.start(aliases)
        self.stdout.write(f"relaying the outbox of {', '.join(aliases)}")
        self.stdout.flush()
        await stopped.wait()
        await process_relays.stop()
