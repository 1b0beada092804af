"""``seed``: create missing users and rooms of the demo."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand

from tiderace.demo.seed import seed


class Command(BaseCommand):
    """Create missing users and rooms."""

    help = "Create the demo's users and rooms where they are missing."

    def handle(self, *args: Any, **options: Any) -> None:
        """Seed."""
        seed()
