"""Tasks in Celery workers send through the layer and publish."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support.waiting import until
from tiderace.layers.broker import Retention
from tiderace.layers.redis import RedisChannelLayer
from tiderace.topics.names import topic_group

APPLICATION = """
import os

import django
from asgiref.sync import async_to_sync
from celery import Celery
from django.conf import settings

config = {"hosts": [os.environ["URL"]], "prefix": os.environ["PREFIX"]}
backend = "tiderace.layers.redis.RedisChannelLayer"
settings.configure(CHANNEL_LAYERS={"default": {"BACKEND": backend, "CONFIG": config}})
django.setup()

from tiderace.layers import get_channel_layer
from tiderace.topics import History, Topic, publish


class News(Topic):
    pattern = "news"
    history = History(size=100, ttl=60)


app = Celery("tasks", broker=os.environ["URL"])
app.conf.broker_connection_retry_on_startup = True
layer = get_channel_layer()
# Used before the workers are forked, as by an application that is loaded before.
layer.sync.group_send("room", {"type": "said", "by": "parent", "pid": os.getpid()})


@app.task
def say(number):
    pid = os.getpid()
    message = {"type": "said", "n": number, "pid": pid}
    async_to_sync(layer.group_send)("room", {**message, "by": "async_to_sync"})
    layer.sync.group_send("room", {**message, "by": "sync"})
    publish("news", number)
"""

CONCURRENCY = {"prefork": "2", "threads": "4", "gevent": "10"}


@pytest.fixture
def tasks(own_server, prefix, tmp_path, pool):
    """A project with a task, and a Celery worker that runs it in this pool."""
    (tmp_path / "tasks.py").write_text(APPLICATION)
    source = str(Path(sys.modules["tiderace"].__file__).parents[1])
    environment = {
        # Leave out this suite's settings, which Celery would load.
        **{key: os.environ[key] for key in os.environ if not key.startswith("DJANGO")},
        "URL": own_server.url,
        "PREFIX": prefix,
        "PYTHONPATH": os.pathsep.join([str(tmp_path), source]),
    }
    log = (tmp_path / "log").open("wb")
    command = [sys.executable, "-m", "celery", "-A", "tasks", "worker"]
    options = ["--pool", pool, "--concurrency", CONCURRENCY[pool], "--without-mingle"]
    with log:
        worker = subprocess.Popen(
            [*command, *options, "--without-gossip", "--without-heartbeat"],
            cwd=tmp_path,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield environment
    finally:
        worker.terminate()
        try:
            worker.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()


@pytest.mark.parametrize("pool", CONCURRENCY)
async def test_tasks_of_a_worker_reach_consumers_and_topics(own_server, prefix, tasks):
    layer = RedisChannelLayer(hosts=[own_server.url], prefix=prefix)
    box = layer.attach(await layer.new_channel())
    await layer.group_add("room", box.name)

    calls = "from tasks import say; [say.delay(number) for number in range(10)]"
    caller = await asyncio.create_subprocess_exec(
        sys.executable, "-c", calls, env=tasks
    )
    assert await asyncio.wait_for(caller.wait(), 30) == 0
    heard = []
    async with asyncio.timeout(45):
        while len(heard) < 20:
            message = await box.get()
            if message["by"] != "parent":
                heard.append(message)

    expected = [(n, by) for n in range(10) for by in ("async_to_sync", "sync")]
    assert sorted((each["n"], each["by"]) for each in heard) == expected
    assert os.getpid() not in {each["pid"] for each in heard}

    async def published():
        keep = Retention(size=100, seconds=60)
        _, publications = await layer.stream_read(topic_group("news"), keep=keep)
        return sorted(int(each.data) for each in publications) == list(range(10))

    await until(published)
    await layer.close()
