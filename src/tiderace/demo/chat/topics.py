"""The topics of a room: its messages, and the people who are there.

The methods change rows; the model ``Message`` publishes the changes.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from tiderace.demo.chat import rooms
from tiderace.demo.chat.answers import COMMAND, ask
from tiderace.demo.chat.models import STAFF_ROOM, Message, Picture
from tiderace.demo.chat.text import cleaned
from tiderace.demo.people.person import person_of
from tiderace.topics import (
    Growing,
    History,
    IsAuthenticated,
    Presence,
    Refuse,
    Topic,
    rpc,
)

REACTIONS = ("👍", "❤️", "😄", "🎉")


class Draft(msgspec.Struct):
    """A message as a page sends it: a text, the id of an uploaded picture, or both."""

    client_id: Annotated[str, Meta(pattern=r"\A[A-Za-z0-9-]{8,64}\Z")]
    text: str = ""
    picture: int | None = None


class _InRoom(Topic):
    """Visitors may enter every room, except that the bridge is for staff."""

    permission_classes = [IsAuthenticated]

    async def can_subscribe(self, user: Any) -> bool:
        return self.kwargs["room"] != STAFF_ROOM or bool(user.is_staff)


class Chat(_InRoom):
    """The messages of a room."""

    pattern = "chat:<slug:room>"
    history = History(size=300, ttl=3600)
    message = Draft

    def on_publish(self, user: Any, message: Draft) -> None:
        """Store a message once; saving it publishes it."""
        text = cleaned(message.text)
        picture = Picture.objects.filter(pk=message.picture, owner=user).first()
        if not text and picture is None:
            raise Refuse("the message is empty", code=422)
        stored = rooms.store(
            self.kwargs["room"], person_of(user), message.client_id, text, picture
        )
        if text.split(" ")[0] == COMMAND:
            ask(stored)

    @rpc
    def edit(self, user: Any, pk: int, text: str) -> None:
        """Change the text of an own message."""
        message = self._own(user, pk)
        if not (text := cleaned(text)):
            raise Refuse("the message is empty", code=422)
        message.text, message.edited = text, True
        message.save(update_fields=["text", "edited"])

    @rpc
    def delete(self, user: Any, pk: int) -> None:
        """Delete an own message."""
        self._own(user, pk).delete()

    @rpc
    def react(self, user: Any, pk: int, reaction: str) -> None:
        """Add or take back a reaction."""
        if reaction not in REACTIONS:
            raise Refuse(f"there is no reaction {reaction!r}", code=422)
        rooms.react(self._message(pk), str(user.pk), reaction)

    @rpc
    def before(self, pk: int) -> list[dict[str, Any]]:
        """Return the messages before one, for scrolling back."""
        return rooms.page_of(self.kwargs["room"], before=pk)

    @rpc
    def read(self, user: Any, pk: int) -> None:
        """Store how far the user has read."""
        rooms.mark_read(self.kwargs["room"], user, pk)

    def _message(self, pk: int) -> Message:
        found = Message.objects.filter(pk=pk, room__slug=self.kwargs["room"]).first()
        if found is None:
            raise Refuse("that message is gone", code=404)
        return found

    def _own(self, user: Any, pk: int) -> Message:
        message = self._message(pk)
        if message.author != str(user.pk):
            raise Refuse("that message has another author", code=403)
        return message


class AnswersOfRoom(_InRoom):
    """The answers to ``/tide`` while they are written; who asked may stop one."""

    pattern = "answers:<slug:room>"
    growing = Growing()
    history = History(size=20, ttl=600)

    def can_cancel(self, user: Any, message: Any) -> bool:
        """Allow the one who has asked."""
        return bool(message["asked_by"] == str(user.pk))


class Here(_InRoom):
    """The people in a room, once each however many tabs they have, and their typing."""

    pattern = "here:<slug:room>"
    presence = Presence.PER_USER
    presence_grace = 5.0
    whispers = "2/s"
