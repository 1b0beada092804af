"""Stand-in for daphne's ``runserver`` command."""

from __future__ import annotations

from tiderace.management.commands.runserver import Command

__all__ = ["Command"]
