"""The app that brings the layer's tables on PostgreSQL."""

from __future__ import annotations

from django.apps import AppConfig


class DatabaseLayerConfig(AppConfig):
    """``"tiderace.layers.database"`` in ``INSTALLED_APPS``: its migrations.

    Only PostgreSQL needs it: on SQLite the layer has a file of its own.
    """

    name = "tiderace.layers.database"
    label = "tiderace_layers_database"
    verbose_name = "Tiderace: messages in the database"
