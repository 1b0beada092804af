"""The consumers of the demo: one for a room, one for notices on every other page."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from django.db import DatabaseError

from tiderace.db import database_sync_to_async
from tiderace.demo.chat import frames
from tiderace.demo.chat.history import messages_after, store
from tiderace.demo.chat.notices import EVERYONE, layer_is_local
from tiderace.demo.chat.presence import RoomPresence
from tiderace.demo.people.person import Person, person_of, session_group, user_group
from tiderace.generic.websocket import AsyncJsonWebsocketConsumer
from tiderace.ratelimit import Rate, TokenBucket

logger = logging.getLogger(__name__)
presence = RoomPresence()

# A code from 4500 to 4999: the client does not reconnect.
SIGNED_OUT = 4501
# Frames per socket: bursts of 20, 5 per second on average.
_RATE = Rate(20, 4.0)


class NoticeConsumer(AsyncJsonWebsocketConsumer):
    """Sends notices to a page; refuses frames of the page other than ping."""

    person: Person | None = None
    extra_groups: Sequence[str] = ()
    """Further groups to join."""

    async def connect(self) -> None:
        """Accept, look up the person, and join the groups of this page."""
        self.bucket = TokenBucket(_RATE)
        await self.accept()
        person = await database_sync_to_async(person_of)(
            self.scope["user"], self.scope["session"]
        )
        if person is None:
            await self.session_over({})
            return
        # The consumer leaves the groups in this list when the socket ends.
        self.groups = [EVERYONE, session_group(self.scope["session"])]
        if not person.guest:
            self.groups.append(user_group(self.scope["user"].pk))
        self.groups += self.extra_groups
        for group in self.groups:
            await self.channel_layer.group_add(group, self.channel_name)
        self.person = person
        await self.on_joined(person)

    async def on_joined(self, person: Person) -> None:
        """Send the welcome frame."""
        await self.send_json({"type": "welcome", "me": person.as_dict()})

    async def receive(
        self,
        text_data: str | None = None,
        bytes_data: bytes | None = None,
        **kwargs: Any,
    ) -> None:
        """Handle a frame; reply to an invalid one with an error frame."""
        try:
            if text_data is None:
                raise frames.FrameError("bad-frame", "frames are text, not binary")
            if len(text_data) > frames.FRAME_LENGTH:
                raise frames.FrameError(
                    "too-long", f"a frame has at most {frames.FRAME_LENGTH} characters"
                )
            try:
                content = await self.decode_json(text_data)
            except (ValueError, RecursionError):
                raise frames.FrameError("bad-json", "the frame is not JSON") from None
            await self.receive_json(content)
        except frames.FrameError as refusal:
            await self.send_json(refusal.answer)

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        """Parse a frame, check the rate and handle it."""
        frame = frames.read(content)
        wait = self.bucket.take()
        if wait:
            refused = {"client_id": frame["id"]} if frame["type"] == "message" else {}
            raise frames.FrameError(
                "too-fast",
                f"too many at once; go on in {max(1, round(wait))} s",
                **refused,
                retry_after=round(wait, 2),
            )
        if self.person is None:
            raise frames.FrameError("signed-out", "sign in before you write")
        if frame["type"] == "ping":
            await self.send_json({"type": "pong"})
        else:
            await self.handle_frame(frame, self.person)

    async def handle_frame(self, frame: dict[str, Any], person: Person) -> None:
        """Refuse the frame: this socket only receives notices."""
        raise frames.FrameError(
            "unknown-type", "this socket listens; it takes only ping"
        )

    async def demo_notice(self, event: dict[str, Any]) -> None:
        """Send a notice to the page (a channel layer event)."""
        notice = {key: event[key] for key in ("text", "by", "personal")}
        await self.send_json({"type": "notice", **notice})

    async def session_over(self, event: dict[str, Any]) -> None:
        """Close the socket after the person signed out (a layer event)."""
        await self.send_json({"type": "signed-out"})
        await self.close(code=SIGNED_OUT, reason="signed out")


class RoomConsumer(NoticeConsumer):
    """One window of a room."""

    async def connect(self) -> None:
        """Read the room from the URL and connect."""
        self.slug: str = self.scope["url_route"]["kwargs"]["slug"].lower()
        self.room_group = f"room.{self.slug}"
        self.extra_groups = [self.room_group]
        await super().connect()

    async def on_joined(self, person: Person) -> None:
        """Send the welcome frame with the people; announce a first window."""
        first = presence.join(self.slug, person, self.channel_name)
        await self.send_json(
            {"type": "welcome", "me": person.as_dict(), "people": self.people()}
        )
        if first:
            await self.announce("joined", person)

    async def disconnect(self, code: int) -> None:
        """Announce the end of the person's last window."""
        person = self.person
        if person and presence.leave(self.slug, person, self.channel_name):
            await self.announce("left", person)

    def people(self) -> list[dict[str, Any]] | None:
        """Return the people here; None with a layer shared by processes."""
        if not layer_is_local():
            return None
        return [person.as_dict() for person in presence.people(self.slug)]

    async def announce(self, change: str, person: Person) -> None:
        """Send a change of the people to the room."""
        event = {
            "type": "room.people",
            "change": change,
            "person": person.as_dict(),
            "people": self.people(),
        }
        await self.channel_layer.group_send(self.room_group, event)

    async def handle_frame(self, frame: dict[str, Any], person: Person) -> None:
        """Handle a frame of the page."""
        match frame["type"]:
            case "message":
                await self.store_and_send(frame["id"], frame["text"], person)
            case "since":
                missed = await database_sync_to_async(messages_after)(
                    self.slug, frame["id"]
                )
                await self.send_json({"type": "missed", **missed})
            case "typing":
                event = {"type": "room.typing", "person": person.as_dict()}
                await self.channel_layer.group_send(self.room_group, event)

    async def store_and_send(self, client_id: str, text: str, person: Person) -> None:
        """Store a message and send it to the room; a duplicate goes to its sender only."""
        try:
            message, new = await database_sync_to_async(store)(
                self.slug, person, client_id, text
            )
        except DatabaseError:
            logger.exception("a message in room %r could not be stored", self.slug)
            raise frames.FrameError(
                "not-stored",
                "the message could not be stored; it will be tried again",
                client_id=client_id,
                retry_after=2.0,
            ) from None
        event = {"type": "room.message", "message": message}
        if new:
            await self.channel_layer.group_send(self.room_group, event)
        else:
            await self.room_message(event)

    async def room_message(self, event: dict[str, Any]) -> None:
        """Send a message to the page (a channel layer event)."""
        await self.send_json({"type": "message", "message": event["message"]})

    async def room_people(self, event: dict[str, Any]) -> None:
        """Send a change of the people to the page (a channel layer event)."""
        people = {key: event[key] for key in ("change", "person", "people")}
        await self.send_json({"type": "people", **people})

    async def room_typing(self, event: dict[str, Any]) -> None:
        """Tell the page that another person is typing (a channel layer event)."""
        if self.person and event["person"]["id"] != self.person.id:
            await self.send_json({"type": "typing", "person": event["person"]})
