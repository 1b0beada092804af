"""Stand-in for ``daphne.testing``: a live server in a process of its own."""

from __future__ import annotations

from tiderace.testing.live import ServerProcess as DaphneProcess

__all__ = ["DaphneProcess"]
