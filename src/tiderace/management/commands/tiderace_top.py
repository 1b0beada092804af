"""``manage.py tiderace_top``: shows the statistics of every process until Ctrl-C."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from django.core.management.base import CommandError, CommandParser

from tiderace.exceptions import LayerUnavailable
from tiderace.layers import InMemoryChannelLayer
from tiderace.layers.manager import layer_attribute
from tiderace.layers.stats import LayerStats
from tiderace.management.layer_command import LayerCommand
from tiderace.monitoring.top import table

# Overwrites the screen line by line, which does not flicker as clearing it does.
_HOME, _REST_OF_LINE, _REST_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"


class Command(LayerCommand):
    """Shows connections, groups, rates, drops and lag of every process that listens."""

    help = (
        "Shows connections, groups, messages per second, drops, slow clients and lag of "
        "every process that listens over the layer's broker, until Ctrl-C."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--once", action="store_true", help="Show it once and end.")
        parser.add_argument(
            "--json",
            action="store_true",
            help="Write JSON, one line each time.",
        )
        parser.add_argument(
            "--interval",
            type=float,
            default=2.0,
            metavar="SECONDS",
            help="Seconds between two refreshes (default: 2, as processes report).",
        )
        parser.add_argument(
            "--groups",
            type=int,
            default=10,
            metavar="N",
            help="How many of the largest groups to show (default: 10).",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Show the table once or until Ctrl-C.

        Raises:
            CommandError: when the layer has no statistics of other processes, and, with
                ``--once``, when its broker is away.
        """
        layer = self._layer(options["layer"])
        try:
            while True:
                self._refresh(layer, options)
                if options["once"]:
                    return
                time.sleep(options["interval"])
        except KeyboardInterrupt:
            pass

    def _layer(self, alias: str) -> Any:
        layer = self.find_layer(alias)
        if isinstance(layer, InMemoryChannelLayer):
            raise CommandError(
                f"the layer {alias!r} is in memory, so nothing is known here of other "
                "processes; use a layer with a broker, or layer.stats() or the metrics "
                "view in the process itself"
            )
        if layer_attribute(layer, "stats_here") is None:
            raise CommandError(
                f"{type(layer).__name__} is a layer of another project and has no "
                "statistics of its processes; use a layer of tiderace.layers"
            )
        return layer

    def _refresh(self, layer: Any, options: dict[str, Any]) -> None:
        try:
            stats: LayerStats = layer.sync.stats(fleet=True)
        except LayerUnavailable as error:
            if options["once"]:
                raise CommandError(str(error)) from error
            self.stderr.write(self.style.ERROR(str(error)))
            return
        if options["json"]:
            self.stdout.write(json.dumps(stats.as_dict()))
            self.stdout.flush()
            return
        lines = [
            f"tiderace  layer {options['layer']}  {time.strftime('%H:%M:%S')}",
            "",
            *table(stats, options["groups"]),
        ]
        if not stats.processes:
            lines.append(
                "\nNo process listens. They appear as soon as a consumer is connected; "
                "check that hosts and prefix are the same here."
            )
        self._show(lines, refresh=not options["once"])

    def _show(self, lines: list[str], *, refresh: bool) -> None:
        if refresh and sys.stdout.isatty():
            text = "".join(f"{line}{_REST_OF_LINE}\n" for line in lines)
            self.stdout.write(f"{_HOME}{text}{_REST_OF_SCREEN}", ending="")
        else:
            self.stdout.write("\n".join(lines))
        self.stdout.flush()
