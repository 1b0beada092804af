"""``manage.py tiderace_drain``: drains the processes of this project on this machine.

It connects to their control sockets and waits until they have drained.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.template.defaultfilters import pluralize

from tiderace import conf
from tiderace.runtime.control_socket import ask_to_drain, control_sockets, run_directory
from tiderace.runtime.drain import drain_seconds


class Command(BaseCommand):
    """Drains every process, and ends when all of them have drained."""

    help = (
        "Has every process of this project on this machine refuse new WebSockets and "
        "close those it has, one by one, and waits for that. The processes go on "
        "serving pages until they are stopped. Exit code 1 when one was not found, or "
        "did not end its connections in time."
    )
    # It runs while a machine is stopped, and needs no part of the project.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--timeout",
            type=float,
            metavar="SECONDS",
            help=(
                "Seconds to wait (default: DRAIN_SECONDS + DRAIN_GRACE + 5). The "
                "processes go on draining after that."
            ),
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Drain all processes at once.

        Raises:
            CommandError: when there is no process, or one did not drain in time.
        """
        if not hasattr(asyncio, "open_unix_connection"):
            raise CommandError(
                "processes are drained over Unix sockets, which this system does not have"
            )
        timeout = options["timeout"]
        if timeout is None:
            timeout = drain_seconds() + conf.current().drain_grace + 5
        left = asyncio.run(self._ask_all(timeout))
        reached = [number for number in left if number is not None]
        if not reached:
            raise CommandError(
                f"no process of this project was found in {run_directory()}; a server "
                "without lifespan support cannot be reached, nor one that runs as "
                'another user. Compare TIDERACE["RUN_DIR"]'
            )
        if open_now := sum(reached):
            left_open = "connection is" if open_now == 1 else "connections are"
            raise CommandError(f"{open_now} {left_open} left after {timeout:g} s")
        drained = "process has" if len(reached) == 1 else "processes have"
        self.stdout.write(self.style.SUCCESS(f"{len(reached)} {drained} drained"))

    async def _ask_all(self, timeout: float) -> list[int | None]:
        return await asyncio.gather(
            *(self._ask(path, timeout) for path in control_sockets())
        )

    async def _ask(self, path: Path, timeout: float) -> int | None:
        name, left = f"process {path.stem}", 0

        def report(number: int) -> None:
            nonlocal left
            left = number
            self.stdout.write(f"{name}: {number} connection{pluralize(number)}")

        try:
            async with asyncio.timeout(timeout):
                return await ask_to_drain(path, report)
        except TimeoutError:
            return left
        except ConnectionError as error:
            self.stderr.write(str(error))
            return 0
