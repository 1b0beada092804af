"""``manage.py check_channels``: sends messages through every configured channel layer."""

from __future__ import annotations

import asyncio
import importlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from django.apps import apps
from django.core.management.base import BaseCommand, CommandError, CommandParser

from tiderace.layers import channel_layers
from tiderace.monitoring.probe import Step, any_failed, probe_layer


class CheckChannels(BaseCommand):
    """Tests every layer; the exit code is 0 when all of them work, else 1."""

    help = (
        "Sends messages through every layer of CHANNEL_LAYERS and checks that they "
        "arrive: send and receive, a group, and recovery after a cut connection where "
        "the layer has it. Safe on a system in use. Exit code 1 when a layer fails."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--layer",
            action="append",
            metavar="ALIAS",
            help="Try this layer alone; may be given several times (default: all).",
        )
        parser.add_argument(
            "--timeout",
            type=float,
            default=5.0,
            metavar="SECONDS",
            help="Seconds for each step (default: 5).",
        )
        parser.add_argument(
            "--json", action="store_true", help="Write the result as JSON."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Test the layers one after the other.

        Raises:
            CommandError: when a layer fails or does not exist.
        """
        aliases = options["layer"] or list(channel_layers.configs)
        if not aliases:
            raise CommandError(
                "CHANNEL_LAYERS is empty; there is no layer to check. Add "
                'CHANNEL_LAYERS = {"default": {"BACKEND": '
                '"tiderace.layers.redis.RedisChannelLayer"}} to the settings.'
            )
        for alias in aliases:
            if alias not in channel_layers.configs:
                known = ", ".join(channel_layers.configs) or "none"
                raise CommandError(
                    f"CHANNEL_LAYERS has no layer {alias!r} (there is: {known})."
                )
        results = {
            alias: asyncio.run(probe_layer(alias, timeout=options["timeout"]))
            for alias in aliases
        }
        failed = [alias for alias, steps in results.items() if any_failed(steps)]
        if options["json"]:
            reports = {
                alias: {
                    "alias": alias,
                    "backend": _backend(alias),
                    "steps": [asdict(step) for step in steps],
                    "passed": alias not in failed,
                }
                for alias, steps in results.items()
            }
            self.stdout.write(json.dumps(reports, indent=2))
        else:
            for alias, steps in results.items():
                self._write(alias, steps)
        if failed:
            raise CommandError(f"not working: {', '.join(failed)}")

    def _write(self, alias: str, steps: list[Step]) -> None:
        self.stdout.write(self.style.MIGRATE_HEADING(alias), ending="")
        self.stdout.write(f"  {_backend(alias)}")
        for step in steps:
            self.stdout.write(f"  {self._word(step)}  {step.name:<17}", ending="")
            took = "" if step.seconds is None else f"{step.seconds * 1000:.2f} ms"
            self.stdout.write(f"{took:>11}  {step.note}".rstrip())

    def _word(self, step: Step) -> str:
        if step.passed is None:
            return self.style.NOTICE("n/a ")
        return self.style.SUCCESS("ok  ") if step.passed else self.style.ERROR("FAIL")


def _backend(alias: str) -> str:
    return str(channel_layers.configs[alias].get("BACKEND", ""))


def _command() -> type[BaseCommand]:
    """Return the project's own command of this name, or this one.

    Channels has no such command, so a project may have one of its own, which an app
    listed before the project's would hide.
    """
    for config in apps.get_app_configs():
        own = Path(config.path, "management", "commands", "check_channels.py")
        if own.is_file() and not own.samefile(__file__):
            module = importlib.import_module(
                f"{config.name}.management.commands.check_channels"
            )
            command: type[BaseCommand] = module.Command
            return command
    return CheckChannels


Command = _command()
