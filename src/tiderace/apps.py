"""Tiderace as a Django app."""

from __future__ import annotations

import logging
import os
import sys
from importlib import import_module
from pathlib import Path

from django.apps import AppConfig, apps
from django.utils.module_loading import module_has_submodule

import tiderace.checks.database
import tiderace.checks.outbox
import tiderace.checks.places
import tiderace.checks.settings
import tiderace.checks.topics  # noqa: F401 (all of them register the checks)
from tiderace import cluster
from tiderace.checks.server_interface import interface_problem
from tiderace.connection import Connection
from tiderace.layers import InMemoryChannelLayer, channel_layers, isolation
from tiderace.monitoring import multiprocess_metrics, recent_logs
from tiderace.revocation.signals import connect_signals
from tiderace.runtime.connections import LiveConnection, process_connections

__all__ = ["TideraceConfig"]

logger = logging.getLogger("tiderace.server")

_CONNECTIONS = "tiderace.monitoring.cluster_connections"


class TideraceConfig(AppConfig):
    """The app ``tiderace``: commands, template tags, static files, a page of the admin.

    It has no tables and no migrations.
    """

    name = "tiderace"
    label = "tiderace"
    verbose_name = "Tiderace"
    default = True

    def ready(self) -> None:
        """Connect signals, and import each app's ``topics`` module."""
        connect_signals()
        if problem := interface_problem(sys.argv, sys.modules, os.environ):
            logger.error("%s", problem)
        recent_logs.install()
        process_connections.on_add(_start_cluster)
        process_connections.on_add(_log_siblings)
        for app in apps.get_app_configs():
            # tiderace.topics needs django.contrib.auth, which not every project has.
            if app is not self and module_has_submodule(app.module, "topics"):
                import_module(f"{app.name}.topics")
        folder = os.environ.get(multiprocess_metrics.FOLDER_VARIABLE)
        if folder:
            multiprocess_metrics.share(Path(folder))


def _log_siblings(connection: LiveConnection) -> None:
    """Log that an in-memory layer does not reach the other processes of the server.

    Called with the first connection, when all processes have started.
    """
    if isolation.siblings_checked():
        return
    layers = channel_layers.backends.values()
    if any(isinstance(layer, InMemoryChannelLayer) for layer in layers):
        isolation.log_siblings()


def _start_cluster(connection: LiveConnection) -> None:
    """Take part in the cluster as soon as a connection is open.

    Consumers are in it for the admin's page, topic clients for ``close_topic`` too.
    """
    if _CONNECTIONS in sys.modules and cluster.current().is_open:
        return
    if not isinstance(connection, Connection) or (
        apps.is_installed("django.contrib.admin") and apps.is_installed("tiderace")
    ):
        # Registers the handlers of messages of other processes.
        from tiderace.monitoring import cluster_connections  # noqa: F401

        cluster.current().start()
