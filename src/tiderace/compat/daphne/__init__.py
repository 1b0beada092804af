"""Stand-in for ``daphne`` where that is not installed; it serves with uvicorn.

There is no ``daphne`` command.
"""

from __future__ import annotations

__all__ = ["__version__"]

# The version of daphne whose names are offered.
__version__ = "4.2.3"
