"""The site of the engines: numbered topics with a history, over any layer.

As a program it publishes: ``migrate``; ``paced RATE SECONDS`` at a steady rate to fifty
topics; ``flood COUNT TOPICS`` as fast as it can, from many tasks; and
``hold SECONDS`` keeps a transaction open in which it has published.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time

import django
from django.conf import settings

LAYERS = {
    "memory": {"BACKEND": "tiderace.layers.InMemoryChannelLayer"},
    "core": {
        "BACKEND": "tiderace.layers.redis.RedisChannelLayer",
        "CONFIG": {"hosts": [os.environ.get("REDIS_URL", "")]},
    },
    "sqlite": {"BACKEND": "tiderace.layers.database.DatabaseChannelLayer"},
    "postgresql": {"BACKEND": "tiderace.layers.database.DatabaseChannelLayer"},
}
LAYER = os.environ["LAYER"]
TOPICS = 50
TASKS = 500
TEXT = "x" * 120

settings.configure(
    SECRET_KEY="benchmark only",
    ALLOWED_HOSTS=["*"],
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "tiderace",
        # PostgreSQL alone has an open transaction that has published.
        *(["tiderace.layers.database", "tiderace.outbox"] * (LAYER == "postgresql")),
    ],
    DATABASES={"default": json.loads(os.environ.get("DATABASE", "{}"))},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    CHANNEL_LAYERS={"default": LAYERS[LAYER]},
    TIDERACE={
        # A ping during a run would be measured too.
        "TOPICS": {"PING": 3600.0, "COMMANDS": "1000000/s", "CONNECTS": None},
        "RELAY_IN_SERVERS": False,
    },
)
django.setup()

from django.core.management import call_command  # noqa: E402
from django.db import transaction  # noqa: E402
from django.urls import path  # noqa: E402

from tiderace.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from tiderace.topics import (  # noqa: E402
    AllowAny,
    History,
    Topic,
    TopicsEndpoint,
    apublish,
    publish,
)


class Numbered(Topic):
    """A topic with a history of a hundred publications."""

    pattern = "numbered:<int:number>"
    # Longer than a run, in which nothing expires.
    history = History(size=100, ttl=3600)
    permission_classes = [AllowAny]


class Room(Topic):
    """A topic to which its subscribers publish; nothing limits how often."""

    pattern = "room:<int:number>"
    history = History(size=100, ttl=3600)
    permission_classes = [AllowAny]
    publish_rate = None
    user_rate = None

    async def can_publish(self, user):
        return True


async def publish_paced(rate: float, seconds: float) -> None:
    """Publish at a steady rate; each publication has the time before the call."""
    started = time.monotonic()
    tasks = []
    for index in range(int(rate * seconds)):
        delay = started + index / rate - time.monotonic()
        if delay > 0:
            await asyncio.sleep(delay)
        number, topic = divmod(index, TOPICS)
        data = {"number": number, "at": time.monotonic(), "text": TEXT}
        tasks.append(asyncio.create_task(apublish(f"numbered:{topic}", data)))
    await asyncio.gather(*tasks)


async def flood(count: int, topics: int) -> float:
    """Publish as fast as possible from many tasks; return the seconds."""
    numbers = iter(range(count))

    async def work() -> None:
        for number in numbers:
            data = {"number": number, "text": TEXT}
            await apublish(f"numbered:{TOPICS + number % topics}", data)

    started = time.monotonic()
    await asyncio.gather(*(work() for _ in range(TASKS)))
    return time.monotonic() - started


async def announce_and_flood(count: int, topics: int) -> None:
    """Flood when a line is read, after what is done once; print the seconds."""
    await flood(2 * TASKS, topics)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    print(await flood(count, topics), flush=True)


def hold(seconds: float) -> None:
    """Keep a transaction open that has published."""
    with transaction.atomic():
        publish(f"numbered:{2 * TOPICS}", {"text": TEXT})
        print("ready", flush=True)
        time.sleep(seconds)


async def paced(scope, receive, send):
    """Publish in the server's process, as a client asks for: the rate and the seconds."""
    await receive()
    await send({"type": "websocket.accept"})
    message = await receive()
    await publish_paced(**json.loads(message["text"]))
    await send({"type": "websocket.close"})


application = ProtocolTypeRouter(
    {
        "websocket": URLRouter(
            [path("topics/", TopicsEndpoint.as_asgi()), path("paced/", paced)]
        )
    }
)

if __name__ == "__main__":
    verb, *numbers = sys.argv[1:]
    if verb == "migrate":
        call_command("migrate", verbosity=0)
    elif verb == "paced":
        asyncio.run(publish_paced(*map(float, numbers)))
    elif verb == "flood":
        asyncio.run(announce_and_flood(*map(int, numbers)))
    else:
        hold(*map(float, numbers))
