"""``manage.py runworker``: handles the messages of named channels in this process."""

from __future__ import annotations

import logging
from typing import Any

from django.apps import apps
from django.core.management.base import BaseCommand, CommandError, CommandParser

from tiderace import DEFAULT_CHANNEL_LAYER, cluster
from tiderace.layers import get_channel_layer

# Registers the handlers of the admin page's messages.
from tiderace.monitoring import cluster_connections  # noqa: F401
from tiderace.routing import get_default_application
from tiderace.worker import Worker

__all__ = ["ClusterWorker", "Command"]

logger = logging.getLogger("django.channels.worker")


class ClusterWorker(Worker):
    """A worker that the admin's page lists among the processes."""

    async def arun(self) -> None:
        """Run the worker; where the admin is installed, answer its page too."""
        if apps.is_installed("django.contrib.admin"):
            cluster.current().start(persistent=True)
        await super().arun()


class Command(BaseCommand):
    """Runs a ``Worker`` until SIGINT or SIGTERM."""

    help = (
        "Handles messages sent to named channels with the consumers that the "
        '"channel" router of ASGI_APPLICATION has for them. It is not a task queue: '
        "nothing is stored beyond the layer's expiry, and nothing is retried."
    )

    leave_locale_alone = True
    worker_class: type[Worker] = ClusterWorker

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the channels' names and the layer's alias."""
        super().add_arguments(parser)
        parser.add_argument(
            "--layer",
            default=DEFAULT_CHANNEL_LAYER,
            help="Channel layer alias to use, if not the default.",
        )
        parser.add_argument("channels", nargs="+", help="Channels to listen on.")

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the worker."""
        alias = options.get("layer", DEFAULT_CHANNEL_LAYER)
        channel_layer = get_channel_layer(alias)
        if channel_layer is None:
            raise CommandError(
                "You do not have any CHANNEL_LAYERS configured."
                if alias == DEFAULT_CHANNEL_LAYER
                else f"CHANNEL_LAYERS has no layer {alias!r}."
            )
        logger.info("Running worker for channels %s", options["channels"])
        self.worker_class(
            application=get_default_application(),
            channels=options["channels"],
            channel_layer=channel_layer,
        ).run()
