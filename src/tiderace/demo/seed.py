"""The initial data of the demo: users, rooms, and notes on the board."""

from __future__ import annotations

from django.contrib.auth.models import Permission, User

from tiderace.demo.board.models import Column, Note
from tiderace.demo.chat.models import Room
from tiderace.demo.people.person import SEEDED, STAFF

ROOMS = {"general": "General", "design": "Design", "support": "Support"}
NOTES = {
    "Open this page in a second window": Column.TO_DO,
    "Switch the network off, change something elsewhere, come back": Column.TO_DO,
    "Read src/tiderace/demo/board: a model, a topic, a page": Column.DOING,
    "Start the demo": Column.DONE,
}


def seed() -> None:
    """Create missing users and rooms, and the notes of an empty board.

    Existing users are not changed.
    """
    for name, password in {**SEEDED, **STAFF}.items():
        if User.objects.filter(username=name).exists():
            continue
        staff = name in STAFF
        user = User.objects.create_user(name, password=password, is_staff=staff)
        if staff:
            rights = Permission.objects.filter(content_type__app_label="tiderace")
            user.user_permissions.set(rights)
    for slug, title in ROOMS.items():
        Room.objects.get_or_create(slug=slug, defaults={"name": title})
    if not Note.objects.exists():
        Note.objects.bulk_create(
            Note(text=text, column=column, author="Tiderace")
            for text, column in NOTES.items()
        )
