"""The channel layer over a database: PostgreSQL, or a SQLite file on one machine."""

from __future__ import annotations

from tiderace.layers.database.layer import DatabaseChannelLayer

__all__ = ["DatabaseChannelLayer"]
