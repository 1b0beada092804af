"""What a new demo starts with: three people to log in as and three rooms.

It knows no command line; running it again adds only what is missing.
"""

from __future__ import annotations

from django.contrib.auth.models import User

from tiderace.demo.chat.models import Room
from tiderace.demo.people.person import SEEDED

__all__ = ["ROOMS", "seed"]

ROOMS = {"general": "General", "design": "Design", "support": "Support"}


def seed() -> None:
    """Create the seeded users and rooms that are not there yet.

    Users that exist are left alone, a changed password included.
    """
    for name, password in SEEDED.items():
        if not User.objects.filter(username=name).exists():
            User.objects.create_user(name, password=password)
    for slug, title in ROOMS.items():
        Room.objects.get_or_create(slug=slug, defaults={"name": title})
