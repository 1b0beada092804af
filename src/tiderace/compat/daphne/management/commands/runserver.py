"""Stands in for daphne's ``runserver`` command with ours, which knows uvicorn."""

from __future__ import annotations

from tiderace.management.commands.runserver import Command

__all__ = ["Command"]
