"""``manage.py runworker``: handles the messages of named channels in this process."""

from __future__ import annotations

import logging
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.management.base import CommandError, CommandParser

from tiderace import DEFAULT_CHANNEL_LAYER, cluster
from tiderace.conf import nearest
from tiderace.layers import InMemoryChannelLayer
from tiderace.layers.isolation import ADVICE
from tiderace.management.layer_command import LayerCommand

# Registers the handlers of the admin page's messages.
from tiderace.monitoring import cluster_connections  # noqa: F401
from tiderace.route_inspection import unwrap_middleware
from tiderace.routing import (
    ChannelNameRouter,
    ProtocolTypeRouter,
    get_default_application,
)
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
        application = get_default_application()
        _require_consumers(application, options["channels"])
        if isinstance(channel_layer, InMemoryChannelLayer):
            self.stderr.write(
                self.style.WARNING(
                    "the channel layer is in memory, so this worker gets no message of "
                    f"another process; {ADVICE}"
                )
            )
        logger.info("Running worker for channels %s", options["channels"])
        self.worker_class(
            application=application,
            channels=options["channels"],
            channel_layer=channel_layer,
        ).run()


def _require_consumers(application: Any, channels: list[str]) -> None:
    """Check that the application has a consumer for each channel, as far as it shows.

    Raises:
        CommandError: when it has none for one of them.
    """
    for part in unwrap_middleware(application):
        if isinstance(part, ChannelNameRouter):
            known = part.application_mapping
            for name in channels:
                if name not in known:
                    raise CommandError(
                        f"ASGI_APPLICATION has no consumer for the channel {name!r}"
                        f"{nearest(name, known)} (it has {', '.join(known) or 'none'})"
                    )
        elif isinstance(part, ProtocolTypeRouter):
            router = part.application_mapping.get("channel")
            if router is None:
                raise CommandError(
                    f"ASGI_APPLICATION ({settings.ASGI_APPLICATION}) serves no channels, "
                    "so a worker has no consumers; write get_application(…, "
                    f'channel={{"{channels[0]}": YourConsumer.as_asgi()}}), or give its '
                    'ProtocolTypeRouter "channel": ChannelNameRouter({…})'
                )
            _require_consumers(router, channels)
            return
