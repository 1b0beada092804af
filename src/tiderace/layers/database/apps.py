"""The app with the migrations for the layer's tables on PostgreSQL."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig, apps
from django.db import connections, router
from django.db.migrations.loader import MigrationLoader
from django.db.models.signals import post_migrate


class DatabaseLayerConfig(AppConfig):
    """The app ``"tiderace.layers.database"`` for ``INSTALLED_APPS``.

    Only PostgreSQL needs it: on SQLite the layer has a file of its own.
    """

    name = "tiderace.layers.database"
    label = "tiderace_layers_database"
    verbose_name = "Tiderace: messages in the database"

    def ready(self) -> None:
        """Create the tables also where tests leave out migrations."""
        post_migrate.connect(_create_without_migrations, dispatch_uid=self.name)


def _create_without_migrations(using: str, **_: Any) -> None:
    """Create the tables in a test database that is created without migrations.

    With ``pytest --nomigrations`` or ``TEST: {"MIGRATE": False}`` Django creates only the
    tables of models, and this app has no models.
    """
    label = DatabaseLayerConfig.label
    connection = connections[using]
    if (
        # Tests of a project may change INSTALLED_APPS.
        not apps.is_installed(DatabaseLayerConfig.name)
        or MigrationLoader.migrations_module(label)[0] is not None
        or connection.vendor != "postgresql"
        or not router.allow_migrate(using, label)
        # Called once for each app.
        or "tiderace_layer_stream" in connection.introspection.table_names()
    ):
        return
    from tiderace.layers.database.postgresql.schema import TABLES

    with connection.schema_editor() as editor:
        editor.execute(TABLES, params=None)
