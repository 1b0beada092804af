"""The rows behind a room: messages, reactions, and what is unread."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import Count, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Coalesce

from tiderace.demo.chat.models import (
    STAFF_ROOM,
    Message,
    Picture,
    ReadMark,
    Room,
)
from tiderace.demo.people.person import Person

PAGE = 40
# Older messages are deleted, so that visitors cannot fill the disk.
_KEPT = 2_000


def may_enter(user: Any, slug: str) -> bool:
    """Return whether the pages of a room may show its messages to a user."""
    return slug != STAFF_ROOM or bool(user.is_staff)


def room_name(slug: str) -> str:
    """Return the name of a room that is opened by its URL."""
    return slug.replace("-", " ").replace("_", " ").strip().capitalize() or slug


@transaction.atomic
def store(
    slug: str, person: Person, client_id: str, text: str, picture: Picture | None = None
) -> Message:
    """Store a message, or return the one with this ``client_id`` and author.

    The first message creates the room.
    """
    room, _ = Room.objects.get_or_create(slug=slug, defaults={"name": room_name(slug)})
    content = {"text": text, "picture": picture}
    message, new = Message.objects.get_or_create(
        room=room,
        author=person.id,
        client_id=client_id,
        defaults={"name": person.name, "guest": person.guest, **content},
    )
    if new and message.pk % 100 == 0:
        ids = room.messages.order_by("-id").values_list("id", flat=True)
        room.messages.filter(id__lte=ids[_KEPT : _KEPT + 1].first() or 0).delete()
    return message


@transaction.atomic
def react(message: Message, user: str, reaction: str) -> None:
    """Add a reaction of a user, or take it back."""
    # Read again inside the transaction: two people may react at once.
    message = Message.objects.select_for_update().get(pk=message.pk)
    users = message.reactions.setdefault(reaction, [])
    if user in users:
        users.remove(user)
    else:
        users.append(user)
    message.save(update_fields=["reactions"])


def page_of(slug: str, *, before: int | None = None) -> list[dict[str, Any]]:
    """Return the newest messages, or those before an id, oldest first."""
    found = Message.objects.filter(room__slug=slug).order_by("-id")
    if before is not None:
        found = found.filter(id__lt=before)
    return [message.as_dict() for message in found[:PAGE]][::-1]


def mark_read(slug: str, user: User, pk: int) -> None:
    """Store that a user has seen a room's messages up to ``pk``."""
    seen = Message.objects.filter(room__slug=slug, id__lte=pk).order_by("-id").first()
    if seen is not None:
        ReadMark.objects.update_or_create(
            user=user, room=seen.room, defaults={"message": seen.pk}
        )


def with_unread(user: User) -> QuerySet[Room]:
    """Return the rooms with ``unread`` and ``mentions``, the messages since the visit."""
    marks = ReadMark.objects.filter(user=user, room=OuterRef("pk")).values("message")
    seen = Coalesce(Subquery(marks), 0)
    theirs = ~Q(messages__author=str(user.pk))
    new = Q(messages__id__gt=seen) & theirs
    named = new & Q(messages__text__icontains=f"@{user.get_username()}")
    return Room.objects.annotate(
        unread=Count("messages", filter=new),
        mentions=Count("messages", filter=named),
    )
