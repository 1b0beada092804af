"""The tables of the layer: where and when Django makes them."""

from __future__ import annotations

import pytest
from django.core.management import call_command
from django.db import connections

from support.servers.postgresql import database_alias

APP = "tiderace_layers_database"


@pytest.fixture
def empty(shared_postgresql, settings, django_db_blocker):
    """The alias of an empty database, in a project with the app."""
    settings.INSTALLED_APPS = [*settings.INSTALLED_APPS, "tiderace.layers.database"]
    shared_postgresql.call("CREATE DATABASE empty")
    with (
        database_alias("empty", shared_postgresql.database("empty")) as name,
        django_db_blocker.unblock(),
    ):
        yield name
        connections[name].close()
        shared_postgresql.call("DROP DATABASE empty")


def tables(alias):
    found = connections[alias].introspection.table_names()
    return {name for name in found if name.startswith("tiderace_layer_")}


def test_migrating_makes_the_tables_and_migrating_back_drops_them(empty):
    call_command("migrate", APP, database=empty, verbosity=0)
    made = tables(empty)
    call_command("migrate", APP, "zero", database=empty, verbosity=0)

    assert {"tiderace_layer_stream", "tiderace_layer_queue"} <= made
    assert tables(empty) == set()


class Elsewhere:
    """A router that keeps the app out of the database of the test."""

    def allow_migrate(self, db, app_label, **hints):
        return False if (db, app_label) == ("empty", APP) else None


def test_a_router_decides_in_which_databases_the_tables_are(empty, settings):
    settings.DATABASE_ROUTERS = [f"{__name__}.Elsewhere"]

    call_command("migrate", APP, database=empty, verbosity=0)

    assert tables(empty) == set()


@pytest.fixture
def without_migrations(settings):
    """Disable migrations, as ``pytest --nomigrations`` does."""
    settings.MIGRATION_MODULES = {APP: None, "auth": None, "contenttypes": None}


@pytest.mark.usefixtures("without_migrations")
def test_a_test_database_without_migrations_has_the_tables(empty):
    call_command("migrate", database=empty, run_syncdb=True, verbosity=0)

    assert {"tiderace_layer_stream", "tiderace_layer_queue"} <= tables(empty)


@pytest.mark.usefixtures("without_migrations")
def test_a_router_decides_without_migrations_too(empty, settings):
    settings.DATABASE_ROUTERS = [f"{__name__}.Elsewhere"]

    call_command("migrate", database=empty, run_syncdb=True, verbosity=0)

    assert tables(empty) == set()
