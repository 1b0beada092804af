"""The two sockets of the demo: a room, and notices for every other page.

They know frames, history and groups. What a page shows is the page's business.
"""

from __future__ import annotations

import logging
from typing import Any

from django.db import DatabaseError

from tiderace.db import database_sync_to_async
from tiderace.demo.chat import frames
from tiderace.demo.chat.allowance import Allowance
from tiderace.demo.chat.history import missed_since, store
from tiderace.demo.chat.notices import EVERYONE, layer_is_local
from tiderace.demo.chat.roster import Roster
from tiderace.demo.people.person import (
    Person,
    person_of,
    session_group,
    user_group,
)
from tiderace.generic.websocket import AsyncJsonWebsocketConsumer

__all__ = ["SIGNED_OUT", "NoticeConsumer", "RoomConsumer"]

logger = logging.getLogger(__name__)
roster = Roster()

# In the range of codes that tell a client not to come back by itself.
SIGNED_OUT = 4501


class NoticeConsumer(AsyncJsonWebsocketConsumer):
    """Keeps a page told of notices; what the page itself says is refused."""

    person: Person | None = None

    async def connect(self) -> None:
        """Accept, find out who it is, and join the groups this page listens to."""
        self.allowance = Allowance()
        await self.accept()
        person = await database_sync_to_async(person_of)(
            self.scope["user"], self.scope["session"]
        )
        if person is None:
            await self.session_over({})
            return
        # Groups named here are left for us when the socket ends, however it ends.
        self.groups = [EVERYONE, session_group(self.scope["session"])]
        if not person.guest:
            self.groups.append(user_group(self.scope["user"].pk))
        self.groups += self.more_groups()
        for group in self.groups:
            await self.channel_layer.group_add(group, self.channel_name)
        self.person = person
        await self.entered(person)

    def more_groups(self) -> list[str]:
        """Return the groups a subclass listens to besides."""
        return []

    async def entered(self, person: Person) -> None:
        """Say that the page is listening now, and as whom."""
        await self.send_json({"type": "welcome", "me": person.as_dict()})

    async def receive(
        self,
        text_data: str | None = None,
        bytes_data: bytes | None = None,
        **kwargs: Any,
    ) -> None:
        """Answer whatever a page sends; bad input gets a sentence, never an end."""
        try:
            if text_data is None:
                raise frames.Refused("bad-frame", "frames are text, not binary")
            if len(text_data) > frames.FRAME_LENGTH:
                raise frames.Refused(
                    "too-long", f"a frame has at most {frames.FRAME_LENGTH} characters"
                )
            try:
                content = await self.decode_json(text_data)
            except (ValueError, RecursionError):
                raise frames.Refused("bad-json", "the frame is not JSON") from None
            await self.receive_json(content)
        except frames.Refused as refusal:
            await self.send_json(refusal.as_dict())

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        """Read a frame, and do what it asks for as long as the allowance lasts."""
        frame = frames.read(content)
        wait = self.allowance.take()
        if wait:
            raise frames.Refused(
                "too-fast",
                f"too many at once; go on in {max(1, round(wait))} s",
                client_id=frame.client_id if isinstance(frame, frames.Say) else None,
                retry_after=wait,
            )
        if self.person is None:
            raise frames.Refused("signed-out", "sign in before you write")
        if isinstance(frame, frames.Ping):
            await self.send_json({"type": "pong"})
        else:
            await self.obey(frame, self.person)

    async def obey(
        self, frame: frames.Say | frames.Since | frames.Typing, person: Person
    ) -> None:
        """Refuse: this socket only listens."""
        raise frames.Refused("unknown-type", "this socket listens; it takes only ping")

    async def demo_notice(self, event: dict[str, Any]) -> None:
        """Show a notice (a channel layer event)."""
        notice = {key: event[key] for key in ("text", "by", "personal")}
        await self.send_json({"type": "notice", **notice})

    async def session_over(self, event: dict[str, Any]) -> None:
        """Close, since whoever opened this window has signed out (a layer event)."""
        await self.send_json({"type": "signed-out"})
        await self.close(code=SIGNED_OUT, reason="signed out")


class RoomConsumer(NoticeConsumer):
    """One window on one room."""

    async def connect(self) -> None:
        """Read the room from the URL, then do as every page does."""
        self.slug: str = self.scope["url_route"]["kwargs"]["slug"].lower()
        await super().connect()

    @property
    def room_group(self) -> str:
        """The group of this room's windows."""
        return f"room.{self.slug}"

    def more_groups(self) -> list[str]:
        """Listen to the room."""
        return [self.room_group]

    async def entered(self, person: Person) -> None:
        """Say who is here, and tell the others of a first window."""
        first = roster.enter(self.slug, person, self.channel_name)
        await self.send_json(
            {"type": "welcome", "me": person.as_dict(), "people": self.people()}
        )
        if first:
            await self.announce("joined", person)

    async def disconnect(self, code: int) -> None:
        """Tell the others when this was the person's last window here."""
        person = self.person
        if person and roster.leave(self.slug, person, self.channel_name):
            await self.announce("left", person)

    def people(self) -> list[dict[str, Any]] | None:
        """Return who is here, or None where one process cannot know."""
        if not layer_is_local():
            return None
        return [person.as_dict() for person in roster.people(self.slug)]

    async def announce(self, change: str, person: Person) -> None:
        """Send the room a change of who is here."""
        event = {
            "type": "room.people",
            "change": change,
            "person": person.as_dict(),
            "people": self.people(),
        }
        await self.channel_layer.group_send(self.room_group, event)

    async def obey(
        self, frame: frames.Say | frames.Since | frames.Typing, person: Person
    ) -> None:
        """Do what a frame asks for."""
        if isinstance(frame, frames.Say):
            await self.say(frame, person)
        elif isinstance(frame, frames.Since):
            await self.catch_up(frame)
        else:
            event = {"type": "room.typing", "person": person.as_dict()}
            await self.channel_layer.group_send(self.room_group, event)

    async def say(self, frame: frames.Say, person: Person) -> None:
        """Store a message and show it to the room; a repeat is shown to its sender."""
        try:
            message, new = await database_sync_to_async(store)(
                self.slug, person, frame.client_id, frame.text
            )
        except DatabaseError:
            logger.exception("a message in room %r could not be stored", self.slug)
            raise frames.Refused(
                "not-stored",
                "the message could not be stored; it will be tried again",
                client_id=frame.client_id,
                retry_after=2.0,
            ) from None
        event = {"type": "room.message", "message": message}
        if new:
            await self.channel_layer.group_send(self.room_group, event)
        else:
            await self.room_message(event)

    async def catch_up(self, frame: frames.Since) -> None:
        """Send what was said since the page last heard."""
        missed = await database_sync_to_async(missed_since)(self.slug, frame.seen)
        await self.send_json(
            {"type": "missed", "messages": missed.messages, "gap": missed.gap}
        )

    async def room_message(self, event: dict[str, Any]) -> None:
        """Show a message (a channel layer event)."""
        await self.send_json({"type": "message", "message": event["message"]})

    async def room_people(self, event: dict[str, Any]) -> None:
        """Show that somebody came or went (a channel layer event)."""
        people = {key: event[key] for key in ("change", "person", "people")}
        await self.send_json({"type": "people", **people})

    async def room_typing(self, event: dict[str, Any]) -> None:
        """Show that somebody else is writing (a channel layer event)."""
        if self.person and event["person"]["id"] != self.person.id:
            await self.send_json({"type": "typing", "person": event["person"]})
