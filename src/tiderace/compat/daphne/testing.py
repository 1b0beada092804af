"""Stands in for ``daphne.testing``: a live server in a process of its own.

The server in it is uvicorn; this module only knows both names.
"""

from __future__ import annotations

from tiderace.testing.live import ServerProcess as DaphneProcess

__all__ = ["DaphneProcess"]
