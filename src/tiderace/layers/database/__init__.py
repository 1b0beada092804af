"""The channel layer over the database that the site has anyway: SQLite or PostgreSQL."""

from __future__ import annotations

from tiderace.layers.database.layer import DatabaseChannelLayer

__all__ = ["DatabaseChannelLayer"]
