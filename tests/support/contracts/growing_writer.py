"""A process that writes a growing message: run with its task as JSON in the arguments.

It appends without an end until the message is cancelled, and prints one line for each
thing that its parent waits for.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time

import django
from django.conf import settings

task = json.loads(sys.argv[1])
settings.configure(
    SECRET_KEY="of a test, not a secret",
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "tiderace"],
    DATABASES={
        "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"},
        **task["databases"],
    },
    CHANNEL_LAYERS=task["layers"],
)
django.setup()

from support.contracts.growing_contract import declare  # noqa: E402
from tiderace.topics import agrow, grow  # noqa: E402

declare()
PAUSE = 0.005  # seconds between two tokens, as a language model makes them


def say(word: str) -> None:
    print(word, flush=True)


async def write() -> None:
    async with agrow("grow-room:a", task["data"], id=task["id"]) as answer:
        say("begun")
        for number in itertools.count():
            await answer.append(f"{number} ")
            await asyncio.sleep(PAUSE)
    say(answer.state)


async def write_silent_ones() -> None:
    """Begin a message, and another one after each cancellation."""
    for number in itertools.count(1):
        async with agrow("grow-room:a", task["data"], id=f"{task['id']}-{number}"):
            say("begun")
            await asyncio.sleep(3600)
        say("cancelled")


def write_in_sync_code() -> None:
    with grow("grow-room:a", task["data"], id=task["id"]) as answer:
        say("begun")
        for number in itertools.count():
            answer.append(f"{number} ")
            time.sleep(PAUSE)
    say(answer.state)


if task["sync"]:
    write_in_sync_code()
else:
    asyncio.run(write_silent_ones() if task["silent"] else write())
