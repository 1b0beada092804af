"""Stands in for the package ``daphne`` where that is not installed.

What projects import of it runs on uvicorn; the ``daphne`` command is not here.
"""

from __future__ import annotations

__all__ = ["__version__"]

# The version of daphne whose names are offered.
__version__ = "4.2.3"
