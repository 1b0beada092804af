"""The topics of the drills' site."""

from __future__ import annotations

import json
import os

from benchmarks.drills.site import FOLDER
from tiderace.topics import (
    AllowAny,
    History,
    Presence,
    Topic,
    ahistory,
    apresence,
)

__all__ = ["history", "present"]


class Stream(Topic):
    """Numbers, with a history; clients may publish."""

    pattern = "stream:<slug:name>"
    history = History(size=20_000, ttl=600)
    permission_classes = [AllowAny]
    publish_rate = None
    user_rate = None

    async def on_publish(self, user, message):
        return message


class Exits(Topic):
    """Ends the process when a client publishes."""

    pattern = "exits:<slug:name>"
    permission_classes = [AllowAny]

    async def on_publish(self, user, message):
        raise SystemExit("the drill: exit")


class Here(Topic):
    """The present users, with a record of each join and leave."""

    pattern = "here:<slug:name>"
    permission_classes = [AllowAny]
    presence = Presence.PER_USER
    presence_grace = 2.0

    async def user_joined(self, user_id):
        self.write("joined", user_id)

    async def user_left(self, user_id):
        self.write("left", user_id)

    def write(self, what, user_id):
        with (FOLDER / "presence").open("a") as record:
            record.write(f"{what} {user_id} {os.getpid()}\n")


async def present(topic):
    """Return the ids of the users who are present."""
    return sorted(member.user_id for member in await apresence(topic))


async def history(topic):
    """Return offset and number of each publication that is kept."""
    page = await ahistory(topic)
    return [
        (each.position.offset, json.loads(each.data)["n"]) for each in page.publications
    ]
