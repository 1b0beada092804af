"""Create the tables, on PostgreSQL."""

from __future__ import annotations

from typing import Any

from django.db import migrations


def create(apps: Any, schema_editor: Any) -> None:
    """Create the tables."""
    if schema_editor.connection.vendor == "postgresql":
        from tiderace.layers.database.postgresql.schema import TABLES

        schema_editor.execute(TABLES, params=None)


def drop(apps: Any, schema_editor: Any) -> None:
    """Drop the tables."""
    if schema_editor.connection.vendor == "postgresql":
        from tiderace.layers.database.postgresql.schema import DROP

        schema_editor.execute(DROP, params=None)


class Migration(migrations.Migration):
    """The first tables."""

    initial = True
    operations = [migrations.RunPython(create, drop, elidable=False)]
