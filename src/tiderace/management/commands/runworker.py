"""``manage.py runworker``: handles the messages of named channels in this process."""

from __future__ import annotations

import logging
from typing import Any

from django.apps import apps
from django.core.management.base import CommandParser

from tiderace import DEFAULT_CHANNEL_LAYER, cluster
from tiderace.management.layer_command import LayerCommand

# Registers the handlers of the admin page's messages.
from tiderace.monitoring import cluster_connections  # noqa: F401
from tiderace.routing import get_default_application
from tiderace.worker import Worker

logger = logging.getLogger("django.channels.worker")


class ClusterWorker(Worker):
    """A worker that the admin's page lists among the processes."""

    async def arun(self) -> None:
        """Run the worker; where the admin is installed, answer its page too."""
        if apps.is_installed("django.contrib.admin"):
            cluster.current().start(persistent=True)
        await super().arun()


class Command(LayerCommand):
    """Runs a ``Worker`` until SIGINT or SIGTERM."""

    help = (
        "Handles messages sent to named channels with the consumers that the "
        '"channel" router of ASGI_APPLICATION has for them. It is not a task queue: '
        "nothing is stored beyond the layer's expiry, and nothing is retried."
    )

    leave_locale_alone = True
    requires_system_checks = "__all__"
    worker_class: type[Worker] = ClusterWorker

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the channels' names and the layer's alias."""
        super().add_arguments(parser)
        parser.add_argument("channels", nargs="+", help="Channels to listen on.")

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the worker."""
        channel_layer = self.find_layer(options.get("layer", DEFAULT_CHANNEL_LAYER))
        logger.info("Running worker for channels %s", options["channels"])
        self.worker_class(
            application=get_default_application(),
            channels=options["channels"],
            channel_layer=channel_layer,
        ).run()
