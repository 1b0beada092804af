"""Stands in for the top package ``channels``: the two facts it has of its own.

Its other names are aliases; this package does not know them.
"""

from __future__ import annotations

from tiderace import DEFAULT_CHANNEL_LAYER

__all__ = ["DEFAULT_CHANNEL_LAYER", "__version__"]

# The version of Channels whose surface is offered: what code that parses it wants.
__version__ = "4.3.2"
