"""The command ``/tide <place> days <number>``: a worker writes the answer.

It grows piece by piece in a topic, where every page sees it, also one that is reloaded
meanwhile. When it has ended it is stored as a message of the room like any other.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from typing import Any

from django.contrib.auth.models import User

from tiderace.consumer import AsyncConsumer
from tiderace.db import database_sync_to_async
from tiderace.demo.chat import rooms
from tiderace.demo.chat.models import Message
from tiderace.demo.people.person import BOTS, person_of
from tiderace.layers import get_channel_layer
from tiderace.topics import agrow

COMMAND = "/tide"
# The named channel of the worker that answers.
QUESTIONS = "answers"
AUTHOR = BOTS[0]
_MOST_DAYS = 14
_PACE = 0.08  # seconds between two words


def ask(message: Message) -> None:
    """Hand a question to the worker; a message that is sent again is one question."""
    layer: Any = get_channel_layer()
    layer.sync.send(
        QUESTIONS,
        {
            "type": "question.asked",
            "room": message.room.slug,
            "message": message.pk,
            "asked_by": message.author,
            "text": message.text,
        },
    )


class AnswerWorker(AsyncConsumer):
    """The worker: answers questions, several at once."""

    async def question_asked(self, event: dict[str, Any]) -> None:
        """Begin an answer."""
        self.spawn(answer(event))


async def answer(question: dict[str, Any]) -> None:
    """Write an answer, and store it."""
    client_id = f"answer-{question['message']}"
    if await Message.objects.filter(client_id=client_id).aexists():
        return
    topic = f"answers:{question['room']}"
    about = {"asked_by": question["asked_by"], "name": AUTHOR}
    async with agrow(topic, about, id=client_id) as message:
        async for word in words(question["text"]):
            await message.append(word)
    author = person_of(await User.objects.aget(username=AUTHOR))
    if message.text:
        store = database_sync_to_async(rooms.store)
        await store(question["room"], author, client_id, message.text)


async def words(question: str) -> AsyncIterator[str]:
    """Yield an answer as a language model would; put the call of yours here."""
    place, _, days = question.removeprefix(COMMAND).strip().partition(" days ")
    place = place or "the harbour"
    tides = 4 * min(int(days), _MOST_DAYS) if days.isdecimal() else 4
    shift = sum(map(ord, place)) % 360
    lines = [f"The tides at *{place}*, computed while you watch:"]
    for tide in range(tides):
        minutes = shift + tide * 373
        height = 2.2 + (1.6 if tide % 2 == 0 else -1.4) + 0.2 * math.sin(shift + tide)
        kind = "High" if tide % 2 == 0 else "Low"
        clock = f"{minutes // 60 % 24:02}:{minutes % 60:02}"
        lines.append(f"- **{kind} water** at `{clock}`, {height:.1f} m above the datum")
    lines.append("Reload this page while I write: the text so far is still there.")
    for word in "\n".join(lines).split(" "):
        await asyncio.sleep(_PACE)
        yield f"{word} "
