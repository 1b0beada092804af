"""The database layer over PostgreSQL, with psycopg 3."""

from __future__ import annotations

from tiderace.exceptions import InvalidChannelLayerError

try:
    import psycopg  # noqa: F401 (an extra, which the modules below import)
except ImportError as error:
    raise InvalidChannelLayerError(
        "the layer over PostgreSQL needs psycopg 3, which cannot be imported "
        f'({error}); run: python -m pip install "tiderace[postgres]"'
    ) from error

from tiderace.layers.database.postgresql.vendor import PostgresVendor

__all__ = ["PostgresVendor"]
