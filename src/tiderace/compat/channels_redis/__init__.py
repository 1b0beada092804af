"""Stands in for the top package ``channels_redis``: its version.

Its other names are aliases; this package does not know them.
"""

from __future__ import annotations

__all__ = ["__version__"]

# The version of channels_redis whose surface is offered.
__version__ = "4.3.0"
