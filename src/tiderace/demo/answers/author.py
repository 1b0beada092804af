"""Writes answers at the pace of a language model, which no demo can ask."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

from django.contrib.auth.models import AbstractBaseUser

from tiderace.demo.answers.topics import ANSWERS
from tiderace.demo.people.person import person_of
from tiderace.topics import agrow

_PACE = 0.05  # seconds between two tokens

_TEXT = """\
This text is not by a language model, but it arrives like one.

The question went to the server with a POST, and a task of its event loop began to write. \
Each word is appended to one message; what is appended within 40 milliseconds is sent \
together, to every page that is open.

Reload this page now: the whole text so far comes back in one message, and goes on from \
here. A second window, or a phone, shows the same. The button Stop cancels the task, in \
whatever process it runs, and only the person who has asked may press it. If the server is \
killed in between, another one marks this answer as failed.

At the end the history of the topic holds one entry for all of it. Other programs, with \
Centrifuge's SDKs, get plain messages and the whole text. 🌊
"""


async def write(question: str, user: AbstractBaseUser) -> None:
    """Write the answer to a question of a user, until it ends or is cancelled."""
    asked = {"question": question, "asked_by": user.pk, "by": person_of(user).name}
    async with agrow(ANSWERS, asked) as answer:
        async for token in _tokens():
            await answer.append(token)


async def _tokens() -> AsyncIterator[str]:
    for token in re.findall(r"\S+\s*", _TEXT):
        await asyncio.sleep(_PACE)
        yield token
