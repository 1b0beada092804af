"""The stored messages of the rooms; synchronous."""

from __future__ import annotations

from typing import Any

from django.db import transaction

from tiderace.demo.chat.models import Message, Room
from tiderace.demo.people.person import Person

HISTORY_SIZE = 200
# Messages stored at the same time may arrive in either order, so a page may lack one
# with a smaller id than its last. Pages ignore duplicates.
_OVERLAP = 20


def room_name(slug: str) -> str:
    """Return the name of a room that is opened by its URL."""
    return slug.replace("-", " ").replace("_", " ").strip().capitalize() or slug


@transaction.atomic
def store(
    slug: str, person: Person, client_id: str, text: str
) -> tuple[dict[str, Any], bool]:
    """Store a message; return it and whether it is new.

    The first message creates the room. For a ``client_id`` that this person has used
    in this room, the message stored then is returned.
    """
    room, _ = Room.objects.get_or_create(slug=slug, defaults={"name": room_name(slug)})
    message, new = Message.objects.get_or_create(
        room=room,
        author=person.id,
        client_id=client_id,
        defaults={"name": person.name, "guest": person.guest, "text": text},
    )
    if new:
        _delete_old(room)
    return message.as_dict(), new


def _delete_old(room: Room) -> None:
    ids = room.messages.order_by("-id").values_list("id", flat=True)
    last_deleted = ids[HISTORY_SIZE : HISTORY_SIZE + 1].first()
    if last_deleted is not None:
        room.messages.filter(id__lte=last_deleted).delete()
        Room.objects.filter(pk=room.pk).update(forgotten_to=last_deleted)


def recent(slug: str) -> list[Message]:
    """Return the stored messages of the room, oldest first."""
    newest = Message.objects.filter(room__slug=slug).order_by("-id")[:HISTORY_SIZE]
    return list(newest)[::-1]


def messages_after(slug: str, seen: int) -> dict[str, Any]:
    """Return the messages after id ``seen``, in order, and a few before it.

    Messages may arrive in another order than they are stored; the page ignores ids
    that it has. ``gap`` is true when older ones are deleted.
    """
    room = Room.objects.filter(slug=slug).first()
    if room is None:
        return {"messages": [], "gap": False}
    rows = room.messages.filter(id__gt=seen - _OVERLAP).order_by("-id")
    newest = list(rows[:HISTORY_SIZE])
    messages = [row.as_dict() for row in newest[::-1]]
    return {"messages": messages, "gap": room.forgotten_to > seen}
