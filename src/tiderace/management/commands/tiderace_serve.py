"""``manage.py tiderace_serve``: serves sockets and topics beside a site under WSGI."""

from __future__ import annotations

from functools import partial
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser

from tiderace import DEFAULT_CHANNEL_LAYER
from tiderace.checks.application import layers_in_memory
from tiderace.checks.settings import probable_asgi_application
from tiderace.layers import channel_layers
from tiderace.layers.isolation import ADVICE
from tiderace.route_inspection import Route, websocket_routes
from tiderace.routing import get_default_application
from tiderace.server.sockets_only import default_application


class Command(BaseCommand):
    """Serves the WebSockets and topics of ``ASGI_APPLICATION``, and none of its pages."""

    help = (
        "Serves the WebSockets and topics of ASGI_APPLICATION, and no page: beside a "
        "WSGI server (gunicorn, mod_wsgi) that keeps the site. On SIGTERM it drains."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--bind",
            default="127.0.0.1:8001",
            metavar="ADDRESS",
            help="Where to listen, as for gunicorn: PORT, HOST:PORT or "
            "unix:PATH (default: %(default)s).",
        )
        parser.add_argument(
            "--path",
            default="",
            metavar="PREFIX",
            help="Serve everything below this path, such as /live; the routes stay as "
            "they are.",
        )
        parser.add_argument(
            "--workers",
            type=int,
            default=1,
            metavar="NUMBER",
            help="Processes; one for each core (default: %(default)s).",
        )
        parser.add_argument(
            "--websocket-max-message-size",
            type=int,
            default=1024 * 1024,
            metavar="BYTES",
            help="Largest WebSocket message taken from a client (default: 1 MiB).",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Serve until SIGTERM or SIGINT.

        Raises:
            CommandError: the options, the settings or the address cannot be used, or
                the application did not start.
        """
        prefix = _prefix(options["path"])
        workers = options["workers"]
        if workers < 1:
            raise CommandError(f"--workers is {workers}; use 1 or more")
        self._check_layer(workers)
        routes = _routes()
        try:
            from tiderace.server.production import NotAnAddress, listen, serve
        except ImportError as error:
            raise CommandError(str(error)) from error
        address = options["bind"]
        try:
            listener = listen(address)
        except NotAnAddress as error:
            raise CommandError(f"--bind is {error}") from error
        except OSError as error:
            raise CommandError(
                f"cannot listen on {address} ({error.strerror or error}); choose another "
                "address with --bind"
            ) from error
        with listener:
            self._print(address, prefix, routes)
            started = serve(
                partial(default_application, prefix),
                listener,
                workers=workers,
                max_message_size=options["websocket_max_message_size"],
            )
        if not started:
            raise CommandError(
                "the application did not start; the reason is in the log above"
            )

    def _check_layer(self, workers: int) -> None:
        """Refuse or report a layer that does not reach the site's own processes."""
        if DEFAULT_CHANNEL_LAYER not in channel_layers:
            raise CommandError(
                "CHANNEL_LAYERS has no layer 'default', over which the site's processes "
                f"reach the sockets; {ADVICE}"
            )
        in_memory = ", ".join(layers_in_memory())
        if not in_memory:
            return
        problem = (
            f"the channel layer {in_memory} is in memory: what the site's own processes "
            "publish does not arrive at the sockets here"
        )
        if workers > 1:
            raise CommandError(
                f"{problem}, nor between the {workers} workers; {ADVICE}"
            )
        self.stderr.write(self.style.WARNING(f"{problem}; {ADVICE}"))

    def _print(self, address: str, prefix: str, routes: list[Route] | None) -> None:
        self.stdout.write(
            f"WebSockets and topics of {settings.ASGI_APPLICATION} on {address}; no pages"
        )
        for route in routes or ():
            self.stdout.write(f"  {prefix}{route.path}  {route.target}")
        # The lines go to a file or a log as a rule, and the process stays.
        self.stdout.flush()


def _routes() -> list[Route] | None:
    """Return the WebSocket routes; None if a wrapper hides them.

    Raises:
        CommandError: there is no application, or it has no WebSockets.
    """
    advice = (
        f'Add ASGI_APPLICATION = "{probable_asgi_application()}" to the settings, and '
        "let tiderace.routing.get_application() make the application in that module."
    )
    if not getattr(settings, "ASGI_APPLICATION", None):
        raise CommandError(
            f"ASGI_APPLICATION is not set, and its sockets are what is served. {advice}"
        )
    try:
        routes = websocket_routes(get_default_application())
    except ImproperlyConfigured as error:
        raise CommandError(f"{error}. {advice}") from error
    if routes == []:
        raise CommandError(
            f"{settings.ASGI_APPLICATION} serves no WebSockets, so there is nothing to "
            f"serve. {advice}"
        )
    return routes


def _prefix(given: str) -> str:
    """Return the prefix with a slash before it and none behind it; "" for none.

    Raises:
        CommandError: it is no path.
    """
    if given and not given.startswith("/"):
        raise CommandError(f"--path is {given!r}; begin it with a slash: /{given}")
    return given.rstrip("/")
