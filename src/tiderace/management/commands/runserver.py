"""``manage.py runserver``: serves ``ASGI_APPLICATION`` with uvicorn and autoreload.

Checks, address parsing, banner and reloader are Django's. The command adds the ASGI
server, static files, the list of WebSocket routes, and a graceful shutdown.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import traceback
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.conf import settings
from django.contrib.staticfiles.handlers import (
    ASGIStaticFilesHandler,
    StaticFilesHandler,
)
from django.core.exceptions import ImproperlyConfigured
from django.core.handlers.wsgi import WSGIHandler
from django.core.management.base import CommandError, CommandParser
from django.core.management.commands.runserver import Command as DjangoRunserver

from tiderace.application_parts import log_missing_client
from tiderace.checks.application import layers_in_memory
from tiderace.checks.settings import probable_asgi_application
from tiderace.layers import channel_layers
from tiderace.monitoring.probe import probe_layer
from tiderace.route_inspection import Route, websocket_routes
from tiderace.routing import get_default_application
from tiderace.runtime.control_socket import make_private, run_directory
from tiderace.server.access import AccessLog

if TYPE_CHECKING:
    from tiderace.asgi import ASGIApp
    from tiderace.server.development import DevelopmentServer

logger = logging.getLogger("django.channels.server")

# Seconds; longer than layers wait for a broker by default, so that their error is printed.
_PROBE_TIMEOUT = 7.0

# Options of daphne's runserver that have no effect here, with the reason.
_WITHOUT_EFFECT = {
    "http_timeout": "uvicorn does not limit how long a request may take",
    "websocket_handshake_timeout": (
        "a handshake may take as long as the consumer's connect() does"
    ),
    "websocket-max-frame-size": (
        "the limit is on whole messages; use --websocket-max-message-size"
    ),
}


class Command(DjangoRunserver):
    """Django's development server, for ASGI: WebSockets work in it."""

    # Set by Django's handle().
    addr: str
    _raw_ipv6: bool

    help = (
        "Starts a lightweight web server for development that also serves WebSockets: "
        "ASGI_APPLICATION on uvicorn, with autoreload and static files."
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._server: DevelopmentServer | None = None
        self._routes: list[Route] | None = []
        self._options: dict[str, Any] = {}

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--noasgi",
            action="store_false",
            dest="use_asgi",
            help="Run Django's WSGI development server instead; no WebSockets then.",
        )
        parser.add_argument(
            "--websocket-max-message-size",
            type=int,
            default=16 * 1024 * 1024,
            metavar="BYTES",
            help="Largest WebSocket message taken from a client (default: 16 MiB).",
        )
        parser.add_argument(
            "--ssl",
            action="store_true",
            help="Serve https and wss with a certificate made for development.",
        )
        parser.add_argument(
            "--ssl-certfile", metavar="FILE", help="Serve https and wss with this one."
        )
        parser.add_argument(
            "--ssl-keyfile", metavar="FILE", help="Its key, if in a file of its own."
        )
        for option, reason in _WITHOUT_EFFECT.items():
            parser.add_argument(
                f"--{option}",
                type=int,
                help=f"Accepted so that daphne's command lines work; no effect: {reason}.",
            )
        if apps.is_installed("django.contrib.staticfiles"):
            parser.add_argument(
                "--nostatic",
                action="store_false",
                dest="use_static_handler",
                help="Tells Django to NOT automatically serve static files at STATIC_URL.",
            )
            parser.add_argument(
                "--insecure",
                action="store_true",
                dest="insecure_serving",
                help="Allows serving static files even if DEBUG is False.",
            )

    def handle(self, *args: Any, **options: Any) -> None:
        """Check the ASGI settings, then run Django's command."""
        if options["ssl"] or options["ssl_certfile"]:
            if not options["use_asgi"]:
                raise CommandError("--noasgi serves no https; leave it out, or --ssl")
            self.protocol = "https"
        if options["use_asgi"]:
            self._require_asgi()
            for option, reason in _WITHOUT_EFFECT.items():
                if options.get(option.replace("-", "_")) is not None:
                    self.stderr.write(
                        self.style.WARNING(f"--{option} has no effect: {reason}.")
                    )
            self._options = options
            # Django calls it with the address and uses the returned object.
            self.server_cls = self._bind  # type: ignore[assignment]
        super().handle(*args, **options)

    def run(self, **options: Any) -> None:
        """Run until the reloader or a signal ends the process, then close sockets.

        Django's reloader calls ``sys.exit`` in this thread while the server runs in
        another one that ends with the process, so the server is stopped here first.
        """
        try:
            super().run(**options)
        finally:
            self._stop()

    def inner_run(self, *args: Any, **options: Any) -> None:
        """Start the server; called in the reloader's thread, or in the main one."""
        if not options["use_asgi"]:
            super().inner_run(*args, **options)
            return
        from tiderace.server.development import StartupFailed

        # Django would add the threads of its WSGI server.
        options["use_threading"] = False
        try:
            super().inner_run(*args, **options)
        except StartupFailed as error:
            if not options["use_reloader"]:
                raise CommandError(str(error)) from None
            self.stderr.write(self.style.ERROR(f"{error}. Waiting for a change."))

    def get_handler(self, *args: Any, **options: Any) -> Any:
        """Return the application: ASGI, or WSGI with ``--noasgi``."""
        if options["use_asgi"]:
            return self.get_application(options)
        handler = super().get_handler(*args, **options)
        if self._serves_static(options):
            handler = StaticFilesHandler(handler)
        self._warn_about_lost_routes()
        return handler

    def get_application(self, options: dict[str, Any]) -> ASGIApp:
        """Return ``ASGI_APPLICATION``, with static files before it in development."""
        try:
            application: Any = get_default_application()
        except ImproperlyConfigured as error:
            raise CommandError(_explained(error)) from error
        if not callable(application) or isinstance(application, WSGIHandler):
            kind = type(application).__name__
            what = "a WSGI application" if callable(application) else f"of type {kind}"
            raise CommandError(
                f"ASGI_APPLICATION names {settings.ASGI_APPLICATION}, which is {what} and "
                "no ASGI application; make it with tiderace.routing.get_application()"
            )
        self._routes = websocket_routes(application)
        if self._serves_static(options):
            application = ASGIStaticFilesHandler(application)
        return AccessLog(application, self.log_action)

    def on_bind(self, server_port: int) -> None:
        """Print Django's banner, and below it the WebSocket routes."""
        super().on_bind(server_port)
        if self._server is not None:
            host = f"[{self.addr}]" if self._raw_ipv6 else self.addr
            prefix = (settings.FORCE_SCRIPT_NAME or "").rstrip("/")
            scheme = self.protocol.replace("http", "ws")
            self._print_routes(f"{scheme}://{host}:{server_port}{prefix}")
            # In a thread, since it waits for a broker that is away.
            threading.Thread(target=self.report_layers, daemon=True).start()

    def report_layers(self) -> None:
        """Try each channel layer with a broker, and print the error of one that fails."""
        in_memory = layers_in_memory()
        for alias in channel_layers.configs:
            if repr(alias) in in_memory:
                continue
            for step in asyncio.run(probe_layer(alias, timeout=_PROBE_TIMEOUT)):
                if step.passed is False:
                    self.stderr.write(
                        self.style.ERROR(
                            f"The channel layer {alias!r} does not work: {step.note}"
                        )
                    )

    def log_action(self, protocol: str, action: str, details: dict[str, Any]) -> None:
        """Log one line about a request or a socket to ``django.channels.server``."""
        if protocol == "http":
            level, style = self._http_style(details["status"])
            line = "HTTP %(method)s %(path)s %(status)s [%(time_taken).2f, %(client)s]"
            logger.log(level, style(line), details)
            log_missing_client(details["path"].partition("?")[0], details["status"])
            return
        words = {
            "connecting": "HANDSHAKING",
            "connected": "CONNECT",
            "rejected": "REJECT",
            "disconnected": "DISCONNECT",
        }
        level = logging.WARNING if action == "rejected" else logging.INFO
        logger.log(level, f"WebSocket {words[action]} %(path)s [%(client)s]", details)

    def _require_asgi(self) -> None:
        if not getattr(settings, "ASGI_APPLICATION", None):
            raise CommandError(
                "ASGI_APPLICATION is not set, and it is what this server serves. "
                + _asgi_advice()
            )
        try:
            import tiderace.server.development  # noqa: F401
        except ImportError as error:
            raise CommandError(
                f"{error}\nOr run Django's WSGI server, without WebSockets: "
                f"manage.py runserver --noasgi"
            ) from error

    def _bind(self, address: tuple[str, int], handler: Any, *, ipv6: bool) -> _Httpd:
        """Make the server object that Django's ``run`` expects."""
        from tiderace.server.development import DevelopmentServer, ServerOptions

        given = self._options
        certificate = given["ssl_certfile"]
        if given["ssl"] and not certificate:
            certificate = self._make_certificate(address[0])
        options = ServerOptions(
            max_message_size=given["websocket_max_message_size"],
            certificate=certificate,
            key=given["ssl_keyfile"],
        )
        self._server = DevelopmentServer(*address, ipv6=ipv6, options=options)
        return _Httpd(self._server)

    def _make_certificate(self, host: str) -> str:
        # Its package cryptography takes 40 ms at each reload.
        from tiderace.server.certificate import development_certificate

        folder = run_directory()
        try:
            make_private(folder)
            return str(development_certificate(host, folder))
        except (ImportError, OSError) as error:
            raise CommandError(
                f"{error}. Or pass a certificate with --ssl-certfile and --ssl-keyfile"
            ) from error

    def _stop(self) -> None:
        server = self._server
        if server is not None:
            server.stop()
            # uvicorn checks every 0.1 s whether to stop, and needs 0.1 s to close.
            server.wait(server.options.graceful_timeout + 1)

    def _serves_static(self, options: dict[str, Any]) -> bool:
        installed = apps.is_installed("django.contrib.staticfiles")
        wanted = options.get("use_static_handler", installed)
        insecure = options.get("insecure_serving", False)
        return bool(wanted and (settings.DEBUG or insecure))

    def _print_routes(self, origin: str) -> None:
        if self._routes:
            self.stdout.write("WebSocket routes:")
            for route in self._routes:
                self.stdout.write(f"  {origin}{route.path}  {route.target}")
        elif self._routes is not None:
            self.stdout.write(
                self.style.WARNING(
                    f"No WebSocket routes: {settings.ASGI_APPLICATION} has no "
                    f'"websocket" application with URLs. '
                    "tiderace.routing.get_application() makes one of a list of routes."
                )
            )

    def _warn_about_lost_routes(self) -> None:
        """Warn of the WebSocket routes that a WSGI server does not serve (tiderace.W010)."""
        try:
            routes = websocket_routes(get_default_application())
        except ImproperlyConfigured:
            return
        if routes:
            paths = ", ".join(route.path for route in routes)
            self.stderr.write(
                self.style.WARNING(
                    f"(tiderace.W010) --noasgi serves no WebSockets, but "
                    f"ASGI_APPLICATION has routes for them: {paths}. Clients will get "
                    f'"Not Found"; leave --noasgi out to serve them.'
                )
            )

    def _http_style(self, status: int) -> tuple[int, Any]:
        if status < 300:
            return logging.INFO, self.style.HTTP_SUCCESS
        if status == 304:
            return logging.INFO, self.style.HTTP_NOT_MODIFIED
        if status < 400:
            return logging.INFO, self.style.HTTP_REDIRECT
        if status == 404:
            return logging.WARNING, self.style.HTTP_NOT_FOUND
        if status < 500:
            return logging.WARNING, self.style.HTTP_BAD_REQUEST
        return logging.ERROR, self.style.HTTP_SERVER_ERROR


class _Httpd:
    """The development server with the interface that Django's ``run`` expects."""

    def __init__(self, server: DevelopmentServer) -> None:
        self._server = server
        self.server_port = server.port

    def set_app(self, application: ASGIApp) -> None:
        self._application = application

    def serve_forever(self) -> None:
        self._server.run(self._application)


def _asgi_advice() -> str:
    name = probable_asgi_application()
    return f'Add this line to the settings: ASGI_APPLICATION = "{name}"'


def _explained(error: ImproperlyConfigured) -> str:
    """Return why ``ASGI_APPLICATION`` cannot be used, and what to change."""
    cause, path = error.__cause__, settings.ASGI_APPLICATION
    if isinstance(cause, ImportError):
        missing = cause.name or ""
        if not path.startswith(f"{missing}."):
            # Its module exists; an import in it, or below it, fails.
            places = traceback.extract_tb(cause.__traceback__)
            own = [each for each in places if each.filename.endswith(".py")]
            place = own[-1]
            return f"{error} ({place.filename}, line {place.lineno})"
    return (
        f"{error}\n{_asgi_advice()}"
        if path != probable_asgi_application()
        else str(error)
    )
