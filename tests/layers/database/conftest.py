"""Fixtures of the tests over a SQLite file of their own."""

from __future__ import annotations

import pytest

from tiderace.layers.database import DatabaseChannelLayer


@pytest.fixture
def file(tmp_path):
    """The file of the layers."""
    return tmp_path / "layer.sqlite3"


@pytest.fixture
async def make_layer(file):
    """Makes layers over one file, each like a process; closes them at the end."""
    made = []

    def make(**options):
        layer = DatabaseChannelLayer(**{"path": file, **options})
        made.append(layer)
        return layer

    yield make
    for layer in made:
        await layer.close()
