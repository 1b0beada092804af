"""Writes messages while a page is open, so that a first visitor sees traffic.

Every process runs the bots, and nothing elects one of them: what a bot says depends on
the time alone, and a message with the ``client_id`` of that time is stored once.
"""

from __future__ import annotations

import asyncio
import logging
import time

from django.conf import settings
from django.contrib.auth.models import User

from tiderace.db import database_sync_to_async
from tiderace.demo.chat import rooms
from tiderace.demo.people.person import BOTS, Person, person_of
from tiderace.exceptions import LayerUnavailable
from tiderace.runtime.lifespan import while_serving
from tiderace.topics import apresence_stats, apublish

logger = logging.getLogger(__name__)

ROOM = "general"
INTERVAL = 7.0  # seconds between two messages
_TYPING = 2.0

LINES = [
    "Anyone watching the **tide gauge**? It just passed 3.2 m.",
    "I am. The ferry to the island leaves at `17:40`, ten minutes early.",
    "Did you see the board? *All* my notes were moved.",
    "That was me, sorry. I drag them with the keyboard, too.",
    "Try this: drop your connection on the page *Break it*, and count what you miss.",
    "Nothing was missing. I tried it **four** times.",
    "What happens to my message if the server dies right now?",
    "It waits, is sent again under the same id, and is stored once.",
    "Fog in the outer harbour; the cameras are useless.",
    "The buoys still report. Have a look at the devices.",
    "Open this room in a second tab: you are still one person.",
    "And when you close one of them, you have not left.",
]


@while_serving
async def talk() -> None:
    """Write a message every few seconds, while the room is open somewhere."""
    if not settings.BOTS:
        return
    people = await database_sync_to_async(_people)()
    while True:
        await asyncio.sleep(INTERVAL - time.time() % INTERVAL)
        turn = int(time.time() / INTERVAL)
        try:
            if (await apresence_stats(f"here:{ROOM}"))[1]:
                await _say(people[turn % len(people)], turn)
        except LayerUnavailable as error:
            logger.warning("the bots pause: %s", error)


def _people() -> list[Person]:
    users = User.objects.filter(username__in=BOTS).order_by("username")
    return [person_of(user) for user in users]


async def _say(person: Person, turn: int) -> None:
    typing = {"id": person.id, "name": person.name}
    await apublish(f"here:{ROOM}", typing, key=f"bot-{turn}")
    await asyncio.sleep(_TYPING)
    text = LINES[turn % len(LINES)]
    await database_sync_to_async(rooms.store)(ROOM, person, f"bot-{turn:08}", text)
