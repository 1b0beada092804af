"""The base of commands that use one channel layer."""

from __future__ import annotations

from typing import Any, Literal

from django.core.management.base import BaseCommand, CommandError, CommandParser

from tiderace import DEFAULT_CHANNEL_LAYER
from tiderace.layers import get_channel_layer


class LayerCommand(BaseCommand):
    """A command with the option ``--layer``, which works while system checks fail."""

    requires_system_checks: list[str] | Literal["__all__"] = []

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the option for the layer's alias."""
        parser.add_argument(
            "--layer",
            default=DEFAULT_CHANNEL_LAYER,
            help="Channel layer alias to use, if not the default.",
        )

    def find_layer(self, alias: str) -> Any:
        """Return the layer of this alias.

        Raises:
            CommandError: there is none.
        """
        layer = get_channel_layer(alias)
        if layer is None:
            raise CommandError(
                "You do not have any CHANNEL_LAYERS configured."
                if alias == DEFAULT_CHANNEL_LAYER
                else f"CHANNEL_LAYERS has no layer {alias!r}."
            )
        return layer
