"""The initial data of the demo: users, rooms and what was said, notes on the board."""

from __future__ import annotations

from datetime import timedelta

from django.contrib.auth.models import Permission, User
from django.utils import timezone

from tiderace.demo.board.models import Column, Note
from tiderace.demo.chat.models import STAFF_ROOM, Message, Room
from tiderace.demo.devices.models import Device
from tiderace.demo.people.person import BOTS, SEEDED, STAFF, person_of
from tiderace.demo.poll.models import Question

ROOMS = {
    "general": "General",
    "design": "Design",
    "support": "Support",
    STAFF_ROOM: "The bridge",
}
SAID = {
    "marina": "Welcome aboard. Everything on this site is live.",
    "otto": "Open it in a second window, log in as *somebody else*, and write to me.",
}
NOTES = {
    "Open this page in a second window": Column.TO_DO,
    "Switch the network off, change something elsewhere, come back": Column.TO_DO,
    "Read src/tiderace/demo/board: a model, a topic, a page": Column.DOING,
    "Start the demo": Column.DONE,
}
BUOYS = 200
ASKED = "Which way does a message take to you?"
OPTIONS = ["WebSocket", "Server-sent events", "Long polling", "A postcard"]
_GUESTS_KEPT = timedelta(days=7)


def seed() -> None:
    """Create missing users and rooms, and the notes of an empty board.

    Existing users are not changed; guests of last week are deleted.
    """
    for name, password in {**SEEDED, **STAFF, **dict.fromkeys(BOTS)}.items():
        if User.objects.filter(username=name).exists():
            continue
        staff = name in STAFF
        user = User.objects.create_user(name, password=password, is_staff=staff)
        if staff:
            apps = ("tiderace", "auth", "bell")
            rights = Permission.objects.filter(content_type__app_label__in=apps)
            user.user_permissions.set(rights)
    before = timezone.now() - _GUESTS_KEPT
    User.objects.filter(username__startswith="guest-", last_login__lt=before).delete()
    for slug, title in ROOMS.items():
        Room.objects.get_or_create(slug=slug, defaults={"name": title})
    if not Message.objects.exists():
        _say(Room.objects.get(slug="general"))
    if not Note.objects.exists():
        Note.objects.bulk_create(
            Note(text=text, column=column, author="Tiderace", rank=rank)
            for rank, (text, column) in enumerate(NOTES.items())
        )
    if not Device.objects.exists():
        Device.objects.bulk_create(_buoy(number) for number in range(BUOYS))
    if not Question.objects.exists():
        question = Question.objects.create(text=ASKED)
        for text in OPTIONS:
            question.options.create(text=text)


def _buoy(number: int) -> Device:
    """Return a buoy in the sea, which lies between two coasts."""
    # Multiples of these two spread evenly: they come from the plastic ratio.
    x = 3 + 94 * (number * 0.7548776662 % 1)
    y = 12 + 36 * (number * 0.5698402910 % 1)
    return Device(name=f"Buoy {number + 1:03}", x=round(x, 1), y=round(y, 1))


def _say(room: Room) -> None:
    people = {user.username: person_of(user) for user in User.objects.all()}
    Message.objects.bulk_create(
        Message(
            room=room,
            author=people[name].id,
            name=name,
            client_id=f"seed-{number:04}",
            text=text,
        )
        for number, (name, text) in enumerate(SAID.items())
    )
