"""``manage.py tiderace_tail``: prints the messages of a group or topic as they arrive.

It is a member of the group until it ends.
"""

from __future__ import annotations

import asyncio
import re
from datetime import datetime
from typing import Any

import msgspec
from django.core.management.base import CommandError, CommandParser

from tiderace.exceptions import LayerUnavailable
from tiderace.layers import InMemoryChannelLayer
from tiderace.layers.manager import layer_attribute
from tiderace.management.layer_command import LayerCommand
from tiderace.topics.names import topic_group


class Command(LayerCommand):
    """Joins a group and prints its messages, one line each, until Ctrl-C."""

    help = (
        "Prints every message that a group gets, until Ctrl-C; with --topic every "
        "publication of a topic. Bytes are shown in base64."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("group", help="The group, or with --topic the topic.")
        parser.add_argument(
            "--topic", action="store_true", help="The name is that of a topic."
        )
        parser.add_argument(
            "--count", type=int, metavar="N", help="End after N messages."
        )
        parser.add_argument(
            "--json", action="store_true", help="Write the messages alone, as JSON."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Print messages until Ctrl-C, or ``--count`` of them.

        Raises:
            CommandError: for an unknown layer or illegal name, and when the broker is away.
        """
        layer = self.find_layer(options["layer"])
        if isinstance(layer, InMemoryChannelLayer):
            self.stderr.write(
                self.style.WARNING(
                    "this layer is in memory: messages of other processes do not arrive"
                )
            )
        group = topic_group(options["group"]) if options["topic"] else options["group"]
        try:
            asyncio.run(self._listen(layer, group, options))
        except KeyboardInterrupt:
            pass
        except (LayerUnavailable, TypeError) as error:
            raise CommandError(str(error)) from error

    async def _listen(self, layer: Any, group: str, options: dict[str, Any]) -> None:
        channel = await layer.new_channel()
        await layer.group_add(group, channel)
        self.stderr.write(f"listening to {options['group']}, Ctrl-C ends")
        try:
            number = 0
            while number != options["count"]:
                message = await layer.receive(channel)
                number += 1
                line = _escaped(msgspec.json.encode(message).decode())
                if not options["json"]:
                    line = f"{datetime.now():%H:%M:%S.%f}"[:-3] + f" {line}"
                self.stdout.write(line)
                self.stdout.flush()
        finally:
            await layer.group_discard(group, channel)
            if (close := layer_attribute(layer, "close")) is not None:
                await close()


def _escaped(text: str) -> str:
    """Return JSON with the characters escaped that control a terminal (C1 codes)."""
    return "".join(
        each
        if each.isprintable()
        else re.sub("(....)", r"\\u\1", each.encode("utf-16-be").hex())
        for each in text
    )
