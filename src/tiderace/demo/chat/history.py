"""Writing messages down once and reading them back in order.

Synchronous: it knows the database, and no socket or request.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.db import transaction

from tiderace.demo.chat.models import Message, Room
from tiderace.demo.people.person import Person

__all__ = ["KEPT", "Missed", "missed_since", "recent", "room_name", "store"]

KEPT = 200
# Two messages stored at the same moment may be fanned out in either order, so
# "the last id I saw" can hide a slightly smaller one; pages drop what they have.
_OVERLAP = 20


@dataclass(frozen=True, slots=True)
class Missed:
    """What a returning page lacks; ``gap`` says that older messages are gone."""

    messages: list[dict[str, Any]]
    gap: bool


def room_name(slug: str) -> str:
    """Return the name a room gets when it is opened by its URL."""
    return slug.replace("-", " ").replace("_", " ").strip().capitalize() or slug


@transaction.atomic
def store(
    slug: str, person: Person, client_id: str, text: str
) -> tuple[dict[str, Any], bool]:
    """Write a message down; return it and whether it is new.

    The first message opens the room. A ``client_id`` that this person has used
    in this room returns the message stored then, whatever ``text`` says now.
    """
    room, _ = Room.objects.get_or_create(slug=slug, defaults={"name": room_name(slug)})
    message, new = Message.objects.get_or_create(
        room=room,
        author=person.id,
        client_id=client_id,
        defaults={"name": person.name, "guest": person.guest, "text": text},
    )
    if new:
        _forget_old(room)
    return message.as_dict(), new


def _forget_old(room: Room) -> None:
    last_to_go = (
        room.messages.order_by("-id").values_list("id", flat=True)[KEPT : KEPT + 1]
    ).first()
    if last_to_go is not None:
        room.messages.filter(id__lte=last_to_go).delete()
        Room.objects.filter(pk=room.pk).update(forgotten_to=last_to_go)


def recent(slug: str) -> list[Message]:
    """Return the room's kept messages, oldest first."""
    newest = Message.objects.filter(room__slug=slug).order_by("-id")[:KEPT]
    return list(newest)[::-1]


def missed_since(slug: str, seen: int) -> Missed:
    """Return the messages after id ``seen``, in order, and some before it.

    The few before are there because order of arrival is not order of storage;
    the reader knows messages by id.
    """
    room = Room.objects.filter(slug=slug).first()
    if room is None:
        return Missed([], gap=False)
    rows = room.messages.filter(id__gt=seen - _OVERLAP).order_by("-id")
    newest = list(rows[:KEPT])
    return Missed([row.as_dict() for row in newest[::-1]], gap=room.forgotten_to > seen)
