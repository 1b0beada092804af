"""Stand-in for the top package ``channels``; its other modules are aliases."""

from __future__ import annotations

from tiderace import DEFAULT_CHANNEL_LAYER

__all__ = ["DEFAULT_CHANNEL_LAYER", "__version__"]

# The version of Channels whose API is offered.
__version__ = "4.3.2"
