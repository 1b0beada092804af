"""Tiderace as a Django app: its name, and its system checks at start-up.

It knows Django's app registry; what is checked stands in ``checks``.
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path

from django.apps import AppConfig, apps
from django.core.checks import Tags, register
from django.utils.module_loading import module_has_submodule

from tiderace import cluster
from tiderace.checks.settings import CHECKS, DEPLOY_CHECKS
from tiderace.connection import Connection
from tiderace.monitoring import multiprocess_metrics, recent_logs
from tiderace.revocation.signals import connect_signals
from tiderace.runtime.connections import LiveConnection, process_connections

__all__ = ["TideraceConfig", "register_checks"]


class TideraceConfig(AppConfig):
    """The app ``tiderace``: commands, template tags, static files, a page of the admin.

    It has no tables and no migrations.
    """

    name = "tiderace"
    label = "tiderace"
    verbose_name = "Tiderace"
    default = True

    def ready(self) -> None:
        """Register the system checks, and import the ``topics`` module of every app.

        Also listen to the signals that tell of log-outs and changed users.
        """
        register_checks()
        connect_signals()
        recent_logs.install()
        process_connections.on_add(_begun)
        for app in apps.get_app_configs():
            # Ours is the engine, which needs users; not every project has them.
            if app is not self and module_has_submodule(app.module, "topics"):
                import_module(f"{app.name}.topics")
        # Where a server's processes add up what they have counted.
        folder = os.environ.get(multiprocess_metrics.FOLDER_VARIABLE)
        if folder:
            multiprocess_metrics.share(Path(folder))


def _begun(connection: LiveConnection) -> None:
    """Have this process answer others, since somebody is connected.

    For consumers only where the page of the admin is, for nobody else asks. Topic
    clients have to hear that a topic is closed.
    """
    asked = apps.is_installed("django.contrib.admin") and apps.is_installed("tiderace")
    if asked or not isinstance(connection, Connection):
        # It has the handlers for what other processes ask.
        from tiderace.monitoring import cluster_connections  # noqa: F401

        cluster.current().start()


def register_checks() -> None:
    """Have ``manage.py check`` run Tiderace's checks; again is the same as once."""
    for check in CHECKS:
        register(check, "tiderace")
    for check in DEPLOY_CHECKS:
        register(check, "tiderace", Tags.security, deploy=True)
