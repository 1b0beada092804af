"""A user changes in one process, and has connections in another."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

import pytest
from django.contrib.auth.models import User

from support.paths import TESTS
from support.waiting import until
from tiderace.cluster import Cluster
from tiderace.layers.redis import RedisChannelLayer
from tiderace.revocation.account_state import AccountState, Found, Reason
from tiderace.revocation.watcher import RevocationWatcher

# A process without connections, as a task queue's or a command's: it saves, and ends.
ELSEWHERE = """
import django
from django.conf import settings
from settings import INSTALLED_APPS, SECRET_KEY

settings.configure(
    SECRET_KEY=SECRET_KEY,
    INSTALLED_APPS=INSTALLED_APPS,
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    TIDERACE={"REVALIDATE": True},
    CHANNEL_LAYERS={
        "default": {
            "BACKEND": "tiderace.layers.redis.RedisChannelLayer",
            "CONFIG": {"hosts": ["%s"], "prefix": "%s"},
        }
    },
)
django.setup()

from django.contrib.auth.models import User
from django.core.management import call_command

call_command("migrate", verbosity=0)
user = User.objects.create(pk=7, username="ada")
user.is_active = False
user.save()
"""


@pytest.fixture
async def layer(redis_url, prefix):
    made = RedisChannelLayer(hosts=[redis_url], prefix=prefix)
    yield made
    await made.close()


async def test_a_change_in_another_process_reaches_the_watcher(
    layer, redis_url, prefix
):
    there = {"7": User(pk=7, username="ada", password="!")}

    def find(user_ids, session_keys):
        return Found(
            {key: (each, AccountState.of(each)) for key, each in there.items()}
        )

    reasons = []
    bus = Cluster(layer)
    watcher = RevocationWatcher(bus=lambda: bus, find=find)
    watcher.register(User(pk=7, username="ada", password="!"), None, reasons.append)
    await until(lambda: bus.is_open and layer.ready)
    await until(lambda: not watcher.busy)
    there["7"].is_active = False

    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", ELSEWHERE % (redis_url, prefix)],
        env={
            **{k: v for k, v in os.environ.items() if k != "DJANGO_SETTINGS_MODULE"},
            "PYTHONPATH": str(TESTS),
        },
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    await until(lambda: reasons)
    assert reasons == [Reason.DEACTIVATED]
    await watcher.close()
    await bus.close()


async def test_a_change_while_the_server_is_away_is_noticed_when_it_is_back(
    own_server, prefix
):
    there = {"7": User(pk=7, username="ada", password="!")}

    def find(user_ids, session_keys):
        return Found(
            {key: (each, AccountState.of(each)) for key, each in there.items()}
        )

    layer = RedisChannelLayer(hosts=[own_server.url], prefix=prefix)
    reasons = []
    bus = Cluster(layer)
    watcher = RevocationWatcher(bus=lambda: bus, find=find)
    watcher.register(User(pk=7, username="ada", password="!"), None, reasons.append)
    await until(lambda: bus.is_open and layer.ready)
    await until(lambda: not watcher.busy)

    # The server comes back empty, so it cannot deliver the announcement.
    await asyncio.to_thread(own_server.kill)
    there["7"].is_active = False
    await asyncio.to_thread(own_server.start)
    await until(lambda: reasons, timeout=40)

    assert reasons == [Reason.DEACTIVATED]
    await watcher.close()
    await bus.close()
    await layer.close()
