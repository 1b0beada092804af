"""The channel layer over a SQLite file, for several processes on one machine."""

from __future__ import annotations

from tiderace.layers.database.layer import DatabaseChannelLayer

__all__ = ["DatabaseChannelLayer"]
