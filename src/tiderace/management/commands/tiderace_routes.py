"""``manage.py tiderace_routes``: lists the WebSocket routes of ``ASGI_APPLICATION``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser

from tiderace.route_inspection import websocket_routes
from tiderace.routing import get_default_application


class Command(BaseCommand):
    """Lists the paths of WebSockets and the consumers behind them."""

    help = (
        "Lists the WebSocket routes of ASGI_APPLICATION, in the order in which they "
        "are tried, with the consumer that answers."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--json", action="store_true", help="Write the routes as JSON."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Write the routes.

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
        if options["json"]:
            self.stdout.write(json.dumps([asdict(route) for route in routes], indent=2))
            return
        if not routes:
            self.stdout.write(
                self.style.WARNING(
                    f'{settings.ASGI_APPLICATION} has no "websocket" application with '
                    "URLs."
                )
            )
        width = max((len(route.path) for route in routes), default=0)
        for route in routes:
            self.stdout.write(f"{route.path:<{width}}  {route.target}")
