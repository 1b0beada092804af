"""``manage.py tiderace_routes``: lists the WebSocket routes and the declared topics."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser
from msgspec.structs import asdict

from tiderace.route_inspection import websocket_routes
from tiderace.routing import get_default_application
from tiderace.topics.declaration.topic import Topic, declared


class Command(BaseCommand):
    """Lists the paths of WebSockets with their consumers, and the patterns of topics."""

    help = (
        "Lists the WebSocket routes of ASGI_APPLICATION, in the order in which they "
        "are tried, with the consumer that answers, and the topics that are declared."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--json", action="store_true", help="Write routes and topics as JSON."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Write the routes and the topics.

        Raises:
            CommandError: when there is no application, or it hides its routes.
        """
        try:
            routes = websocket_routes(get_default_application())
        except ImproperlyConfigured as error:
            raise CommandError(str(error)) from error
        if routes is None:
            raise CommandError(
                f"{settings.ASGI_APPLICATION} hides its WebSocket routes: a wrapper "
                "around them does not say what it wraps. Let it keep that as its "
                "attribute inner, application or app."
            )
        topics = [_described(topic) for topic in declared]
        if options["json"]:
            found = {"routes": [asdict(route) for route in routes], "topics": topics}
            self.stdout.write(json.dumps(found, indent=2))
            return
        if not routes:
            self.stdout.write(
                self.style.WARNING(
                    f'{settings.ASGI_APPLICATION} has no "websocket" application with '
                    "URLs."
                )
            )
        self._write((route.path, route.target) for route in routes)
        if topics:
            self.stdout.write(self.style.MIGRATE_HEADING("topics"))
            self._write((topic["pattern"], topic["target"]) for topic in topics)

    def _write(self, pairs: Iterable[tuple[str, str]]) -> None:
        rows = list(pairs)
        width = max((len(left) for left, _ in rows), default=0)
        for left, right in rows:
            self.stdout.write(f"{left:<{width}}  {right}")


def _described(topic: type[Topic]) -> dict[str, str]:
    return {
        "pattern": topic.pattern,
        "target": f"{topic.__module__}.{topic.__qualname__}",
    }
