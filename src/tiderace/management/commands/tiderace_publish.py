"""``manage.py tiderace_publish``: publishes to a topic, or sends to a group, by hand."""

from __future__ import annotations

import json
import sys
from typing import Any

from django.core.management.base import CommandError, CommandParser

from tiderace.exceptions import LayerUnavailable
from tiderace.management.layer_command import LayerCommand
from tiderace.topics.declaration.topic import UnknownTopic
from tiderace.topics.server_api.calls import publish


class Command(LayerCommand):
    """Publishes JSON to a topic, or sends it as a message to a group."""

    help = (
        "Publishes JSON to a topic, as publish() does; with --group it is sent to a "
        'group instead, as group_send() does, and has to be an object with a "type".'
    )

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("name", help="The topic, or with --group the group.")
        parser.add_argument(
            "json", help='The data, as JSON; "-" to read it from stdin.'
        )
        parser.add_argument(
            "--group", action="store_true", help="The name is that of a group."
        )
        parser.add_argument(
            "--key",
            default="",
            help="Publish nothing when something was published under this key in the "
            "last five minutes.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Publish or send.

        Raises:
            CommandError: for malformed JSON, an unknown topic or layer, and when the
                broker is away.
        """
        text = sys.stdin.read() if options["json"] == "-" else options["json"]
        try:
            data = json.loads(text)
        except ValueError as error:
            raise CommandError(
                f"the data is not JSON: {error}. Quote it for the shell, as in "
                '\'{"text": "hello"}\'.'
            ) from error
        try:
            if options["group"]:
                self._send(options["name"], data, options["layer"])
            else:
                position = publish(options["name"], data, key=options["key"])
                where = "" if position is None else f" at offset {position.offset}"
                self.stdout.write(f"published to {options['name']}{where}")
        except (UnknownTopic, LayerUnavailable, TypeError, RuntimeError) as error:
            raise CommandError(str(error)) from error

    def _send(self, group: str, message: Any, alias: str) -> None:
        if not isinstance(message, dict) or not isinstance(message.get("type"), str):
            raise CommandError(
                'a message for a group is an object with a "type", which names the '
                'handler: \'{"type": "chat.message", "text": "hello"}\''
            )
        layer = self.find_layer(alias)
        layer.sync.group_send(group, message)
        self.stdout.write(f"sent to group {group}")
