"""A database with the layer's tables, as one of Django's, on a real server."""

from __future__ import annotations

import pytest

from support.servers.postgresql import (  # noqa: F401 (fixtures)
    database_alias,
    own_postgresql,
    shared_postgresql,
)
from tiderace.layers.database.layer import DatabaseChannelLayer
from tiderace.layers.database.postgresql.schema import TABLES


@pytest.fixture(scope="session")
def using(shared_postgresql):  # noqa: F811
    """The alias of a database that tests share, each with its own prefix."""
    shared_postgresql.call(TABLES)
    with database_alias("shared_postgresql", shared_postgresql.database()) as name:
        yield name


@pytest.fixture
def own_using(own_postgresql):  # noqa: F811
    """The alias of the database of a test's own server; requested before a layer."""
    own_postgresql.call(TABLES)
    with database_alias("own_postgresql", own_postgresql.database()) as name:
        yield name


@pytest.fixture
async def make_layer(using, prefix):
    """Makes layers, each like a process, on the shared server unless told otherwise."""
    made = []

    def make(using=using, **options):
        layer = DatabaseChannelLayer(using=using, prefix=prefix, **options)
        made.append(layer)
        return layer

    yield make
    for layer in made:
        await layer.close()
