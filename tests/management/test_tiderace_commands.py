"""``tiderace_routes``, ``tiderace_publish``, ``tiderace_tail`` and ``tiderace_top``."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import signal
import subprocess
import sys
import threading
import time
import uuid
from unittest import mock

import pytest
from django.core.management import CommandError, call_command
from django.test import override_settings
from django.urls import path

from support.paths import TESTS
from support.servers.brokers import Server
from support.waiting import wait_until
from tiderace.consumer import AsyncConsumer
from tiderace.layers import get_channel_layer
from tiderace.layers.redis import RedisChannelLayer
from tiderace.layers.stats import LayerStats, ProcessStats
from tiderace.management.commands import tiderace_routes
from tiderace.monitoring.top import table
from tiderace.routing import ProtocolTypeRouter, URLRouter
from tiderace.topics import Topic
from tiderace.topics.declaration.topic import Registry, declared

MEMORY = {"BACKEND": "tiderace.layers.InMemoryChannelLayer"}


def said(name: str, *arguments: str, **options) -> str:
    """Run a command and return its output."""
    output = io.StringIO()
    call_command(name, *arguments, stdout=output, no_color=True, **options)
    return output.getvalue()


def redis_settings(url: str, prefix: str, **options):
    backend = "tiderace.layers.redis.RedisChannelLayer"
    config = {"hosts": [url], "prefix": prefix, **options}
    return {"default": {"BACKEND": backend, "CONFIG": config}}


@pytest.fixture(scope="module")
def server():
    with Server() as server:
        yield server


@pytest.fixture
def prefix():
    return f"test-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def memory_layer():
    """The default layer, in memory and empty."""
    with override_settings(CHANNEL_LAYERS={"default": MEMORY}):
        yield get_channel_layer()


# tiderace_routes


class Chat(AsyncConsumer):
    """Something behind a route."""


class Hidden:
    """A wrapper that does not say what it wraps."""

    def __init__(self, wrapped):
        self._wrapped = wrapped


ROUTES = URLRouter(
    [path("ws/chat/<room>/", Chat.as_asgi()), path("ws/x/", Chat.as_asgi())]
)
application = ProtocolTypeRouter({"websocket": ROUTES})
pages_alone = ProtocolTypeRouter({"http": Chat.as_asgi()})
hidden = Hidden(ROUTES)


@pytest.fixture(autouse=True)
def topics(monkeypatch):
    """The topics that the command lists: none of those of other tests."""
    declared = Registry()
    monkeypatch.setattr(tiderace_routes, "declared", declared)
    return declared


def routes_of(name: str, *arguments: str) -> str:
    with override_settings(ASGI_APPLICATION=f"{__name__}.{name}"):
        return said("tiderace_routes", *arguments)


def test_routes_are_listed_with_their_consumers():
    assert routes_of("application").splitlines() == [
        f"/ws/chat/<room>/  {__name__}.Chat",
        f"/ws/x/            {__name__}.Chat",
    ]


def test_routes_can_be_written_as_json():
    assert json.loads(routes_of("application", "--json"))["routes"][1] == {
        "path": "/ws/x/",
        "target": f"{__name__}.Chat",
    }


def test_declared_topics_are_listed_with_their_classes(topics):
    class Room(Topic):
        pattern = "room:<slug:name>"

    declared.remove(Room)
    topics.add(Room)

    target = f"{__name__}.{Room.__qualname__}"
    assert routes_of("application").splitlines()[2:] == [
        "topics",
        f"room:<slug:name>  {target}",
    ]
    assert json.loads(routes_of("application", "--json"))["topics"] == [
        {"pattern": "room:<slug:name>", "target": target}
    ]


def test_an_application_without_websockets_causes_a_warning():
    assert 'has no "websocket" application' in routes_of("pages_alone")


def test_hidden_routes_are_an_error_with_what_to_do():
    with pytest.raises(CommandError, match="attribute inner"):
        routes_of("hidden")


@pytest.mark.parametrize("path", [None, "nowhere.application"])
def test_routes_of_no_application_are_an_error(path):
    with (
        override_settings(ASGI_APPLICATION=path),
        pytest.raises(CommandError, match="ASGI_APPLICATION"),
    ):
        said("tiderace_routes")


# tiderace_publish


@pytest.fixture
def topic():
    """A topic declared for the test."""

    class Tea(Topic):
        pattern = "tea:<slug:kind>"

    yield "tea:green"
    declared.remove(Tea)


def test_json_is_published_to_a_topic(memory_layer, topic):
    output = said("tiderace_publish", topic, '{"cups": 2}')

    assert output == "published to tea:green at offset 1\n"


def test_under_the_same_key_it_is_published_once(memory_layer, topic):
    outputs = [said("tiderace_publish", topic, "1", key="once") for _ in range(2)]

    assert outputs == ["published to tea:green at offset 1\n"] * 2


def test_a_message_is_sent_to_a_group(memory_layer):
    channel = asyncio.run(memory_layer.new_channel())
    asyncio.run(memory_layer.group_add("tea", channel))

    output = said("tiderace_publish", "tea", '{"type": "poured"}', "--group")

    assert output == "sent to group tea\n"
    assert asyncio.run(memory_layer.receive(channel)) == {"type": "poured"}


def test_data_may_be_read_from_standard_input(memory_layer):
    channel = asyncio.run(memory_layer.new_channel())
    asyncio.run(memory_layer.group_add("tea", channel))

    with mock.patch.object(sys, "stdin", io.StringIO('{"type": "piped"}')):
        said("tiderace_publish", "tea", "-", "--group")

    assert asyncio.run(memory_layer.receive(channel)) == {"type": "piped"}


@pytest.mark.parametrize("message", ["[]", '"text"', "{}", '{"type": 7}'])
def test_a_message_for_a_group_needs_a_type(memory_layer, message):
    with pytest.raises(CommandError, match='an object with a "type"'):
        said("tiderace_publish", "tea", message, "--group")


def test_the_error_for_malformed_json_mentions_the_shell(memory_layer):
    with pytest.raises(CommandError, match="Quote it for the shell"):
        said("tiderace_publish", "tea", "{type: poured}", "--group")


def test_an_illegal_group_is_an_error(memory_layer):
    with pytest.raises(CommandError, match="Group name must be"):
        said("tiderace_publish", "two words", '{"type": "x"}', "--group")


def test_an_unknown_layer_is_an_error(memory_layer):
    with pytest.raises(CommandError, match="no layer 'other'"):
        said("tiderace_publish", "a", '{"type": "x"}', "--group", layer="other")


def test_an_undeclared_topic_is_an_error(memory_layer):
    with pytest.raises(CommandError, match="nowhere"):
        said("tiderace_publish", "nowhere", "{}")


def test_a_broker_that_is_away_is_an_error(prefix):
    layers = redis_settings("redis://127.0.0.1:1", prefix, publish_timeout=0.05)
    with (
        override_settings(CHANNEL_LAYERS=layers),
        pytest.raises(CommandError, match="could not be reached"),
    ):
        said("tiderace_publish", "tea", '{"type": "x"}', "--group")


# tiderace_tail


class Tail:
    """``tiderace_tail`` in a thread of this process."""

    def __init__(self, *arguments: str, **options) -> None:
        self.output, self.errors = io.StringIO(), io.StringIO()
        self._thread = threading.Thread(
            target=call_command,
            args=("tiderace_tail", *arguments),
            kwargs={
                "stdout": self.output,
                "stderr": self.errors,
                "no_color": True,
                **options,
            },
        )

    def __enter__(self):
        self._thread.start()
        wait_until(lambda: "listening to" in self.errors.getvalue(), what="listening")
        return self

    def __exit__(self, *error):
        self._thread.join(15)
        assert not self._thread.is_alive()

    @property
    def lines(self) -> list[str]:
        return self.output.getvalue().splitlines()


def test_messages_of_a_group_are_printed_with_the_time(memory_layer):
    with Tail("tea", count=2) as tail:
        memory_layer.sync.group_send("tea", {"type": "poured", "cups": 2})
        memory_layer.sync.group_send("tea", {"type": "empty"})

    first, second = tail.lines
    assert first[12:] == ' {"type":"poured","cups":2}'
    time.strptime(first[:8], "%H:%M:%S")
    assert second.endswith('{"type":"empty"}')


def test_publications_of_a_topic_are_printed(memory_layer, topic):
    with Tail(topic, topic=True, count=1, json=True) as tail:
        said("tiderace_publish", topic, '{"cups": 2}')

    told = json.loads(tail.lines[0])
    assert told["type"] == "topic.publication"
    assert told["data"] == {"cups": 2}


def test_control_characters_of_a_message_are_printed_as_escapes(memory_layer):
    text = "\x1b\x7f\x9b2J\u2028\U000e0001 é😀"
    with Tail("tea", count=1, json=True) as tail:
        memory_layer.sync.group_send("tea", {"type": "x", "text": text})

    [line] = tail.lines
    assert line.isprintable()
    assert "é😀" in line
    assert json.loads(line)["text"] == text


def test_messages_with_bytes_can_be_written_as_json(memory_layer):
    with Tail("tea", count=1, json=True) as tail:
        memory_layer.sync.group_send("tea", {"type": "x", "data": b"\x00"})

    assert json.loads(tail.lines[0]) == {"type": "x", "data": "AA=="}


def test_the_command_leaves_the_group_at_its_end(memory_layer):
    with Tail("tea", count=1):
        memory_layer.sync.group_send("tea", {"type": "x"})

    assert memory_layer.groups == {}


def test_a_layer_in_memory_causes_a_warning(memory_layer):
    with Tail("tea", count=1) as tail:
        memory_layer.sync.group_send("tea", {"type": "x"})

    assert "messages of other processes do not arrive" in tail.errors.getvalue()


def test_an_illegal_group_cannot_be_tailed(memory_layer):
    with pytest.raises(CommandError, match="Group name must be"):
        said("tiderace_tail", "two words")


def test_an_unknown_layer_cannot_be_tailed(memory_layer):
    with pytest.raises(CommandError, match="no layer 'other'"):
        said("tiderace_tail", "tea", layer="other")


SITE = """
import sys, django
from django.conf import settings
settings.configure(
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "tiderace"],
    CHANNEL_LAYERS={layers!r},
)
django.setup()
from django.core.management import execute_from_command_line
execute_from_command_line(["manage.py", *sys.argv[1:]])
"""


@contextlib.contextmanager
def started(layers, *arguments: str):
    """A command in a process of its own."""
    command = [sys.executable, "-c", SITE.format(layers=layers), *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=TESTS
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_messages_of_another_process_are_printed_until_ctrl_c(server, prefix):
    layers = redis_settings(server.url, prefix)
    with started(layers, "tiderace_tail", "tea", "--json") as tail:
        assert tail.stderr.readline().startswith("listening to tea")
        with override_settings(CHANNEL_LAYERS=layers):
            said("tiderace_publish", "tea", '{"type": "poured"}', "--group")
        line = tail.stdout.readline()

        tail.send_signal(signal.SIGINT)
        assert tail.wait(15) == 0

    assert json.loads(line) == {"type": "poured"}


# tiderace_top


@pytest.fixture
def fleet(server, prefix):
    """A layer of another loop that serves two channels in ``tea``, and its settings."""
    layers = redis_settings(server.url, prefix)
    ready, done = threading.Event(), threading.Event()

    async def serve():
        layer = RedisChannelLayer(hosts=[server.url], prefix=prefix)
        for _ in range(2):
            channel = await layer.new_channel()
            layer.attach(channel)
            await layer.group_add("tea", channel)
        ready.set()
        await asyncio.to_thread(done.wait)
        await layer.close()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert ready.wait(15)
    with override_settings(CHANNEL_LAYERS=layers):
        yield
    done.set()
    thread.join(15)


def reported(get=lambda: json.loads(said("tiderace_top", "--once", "--json"))):
    """Return the report of the command once it has the groups of this process."""
    return wait_until(lambda: (told := get())["members"] and told, what="a report")


def test_statistics_of_every_process_are_shown_once(fleet):
    reported()

    lines = said("tiderace_top", "--once").splitlines()

    assert lines[0].startswith("tiderace  layer default  ")
    assert lines[2].split()[:4] == ["PROCESS", "UP", "SEEN", "CONNS"]
    assert lines[4].startswith("1 process ")
    assert lines[-1] == "largest groups: tea 2"


def test_statistics_can_be_written_as_json(fleet):
    told = reported()

    assert told["members"] == {"tea": 2}
    assert len(told["processes"]) == 1


def test_the_table_is_refreshed_until_ctrl_c(fleet):
    looks = []

    def interrupt(seconds):
        looks.append(seconds)
        if len(looks) == 3:
            raise KeyboardInterrupt

    with mock.patch("tiderace.management.commands.tiderace_top.time.sleep", interrupt):
        output = said("tiderace_top", interval=0.5)

    assert output.count("tiderace  layer default") == 3
    assert looks == [0.5] * 3


def test_a_terminal_is_overwritten(fleet):
    terminal = mock.Mock(isatty=lambda: True)
    with (
        mock.patch.object(sys, "stdout", terminal),
        mock.patch(
            "tiderace.management.commands.tiderace_top.time.sleep",
            side_effect=KeyboardInterrupt,
        ),
    ):
        output = said("tiderace_top")

    assert output.startswith("\x1b[H")
    assert output.endswith("\x1b[J")


def test_an_empty_table_has_a_hint(server, prefix):
    with override_settings(CHANNEL_LAYERS=redis_settings(server.url, prefix)):
        assert "No process listens." in said("tiderace_top", "--once")


def test_top_reports_a_broker_that_is_away_and_waits(prefix):
    layers = redis_settings("redis://127.0.0.1:1", prefix, publish_timeout=0.05)
    errors = io.StringIO()
    with (
        override_settings(CHANNEL_LAYERS=layers),
        mock.patch(
            "tiderace.management.commands.tiderace_top.time.sleep",
            side_effect=KeyboardInterrupt,
        ),
    ):
        said("tiderace_top", stderr=errors)

    assert "could not be reached" in errors.getvalue()


def test_once_with_a_broker_that_is_away_is_an_error(prefix):
    layers = redis_settings("redis://127.0.0.1:1", prefix, publish_timeout=0.05)
    with (
        override_settings(CHANNEL_LAYERS=layers),
        pytest.raises(CommandError, match="could not be reached"),
    ):
        said("tiderace_top", "--once")


@pytest.mark.parametrize(
    ("layers", "problem"),
    [
        ({"default": MEMORY}, "is in memory"),
        ({"default": {"BACKEND": "tiderace.layers.BaseChannelLayer"}}, "another proj"),
        ({}, "do not have any CHANNEL_LAYERS"),
    ],
)
def test_a_layer_without_statistics_of_others_is_an_error(layers, problem):
    with (
        override_settings(CHANNEL_LAYERS=layers),
        pytest.raises(CommandError, match=problem),
    ):
        said("tiderace_top", "--once")


# The table


def process(**values) -> ProcessStats:
    return ProcessStats(
        **{
            "process": "p",
            "host": "web1",
            "pid": 7,
            "started": 0.0,
            "at": time.time(),
            "ready": True,
            "connections": 1204,
            "channels": 1230,
            "groups": 87,
            "members": {},
            "sent": 0,
            "delivered": 0,
            "sent_per_second": 12.04,
            "delivered_per_second": 4210.0,
            "dropped": {},
            "slow_clients": 3,
            "errors": 0,
            **values,
        }
    )


def cells(stats: LayerStats, line: int) -> dict[str, str]:
    """A line of the table by its heads (the cell of the process holds no space)."""
    lines = table(stats)
    return dict(zip(lines[0].split(), lines[line].split(), strict=False))


def test_numbers_are_formatted():
    now = time.time()
    stats = LayerStats(
        (
            process(
                started=now - 7400,
                at=now,
                lag=0.00094,
                round_trip=2.5,
                memory=87_400_000,
                topic_clients=1005,
                dropped={"full": 1000, "expired": 1},
            ),
        )
    )

    assert cells(stats, 1) == {
        "PROCESS": "web1:7",
        "UP": "2h03m",
        "SEEN": "0s",
        "CONNS": "1,204",
        "CLIENTS": "1,005",
        "CHANNELS": "1,230",
        "GROUPS": "87",
        "IN/S": "12.0",
        "OUT/S": "4,210.0",
        "DROPPED": "1,001",
        "SLOW": "3",
        "ERRORS": "0",
        "LAG": "0.9ms",
        "TRIP": "2.5s",
        "MEMORY": "87MB",
    }


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59, "59s"), (60, "1m"), (3600, "1h00m"), (90_000, "1d1h")],
)
def test_the_uptime_has_two_units(seconds, text):
    now = time.time()

    assert cells(LayerStats((process(started=now - seconds, at=now),)), 1)["UP"] == text


def test_a_process_whose_report_is_old_is_marked():
    silent = process(at=time.time() - 20, started=0)

    assert cells(LayerStats((silent,)), 1)["SEEN"] == "20s!"


def test_a_process_without_its_broker_is_marked():
    assert "web1:7 (disconnected)" in table(LayerStats((process(ready=False),)))[1]


def test_the_last_line_is_the_sum():
    lines = table(LayerStats((process(), process(pid=8))))

    assert lines[3].split()[:3] == ["2", "processes", "2,408"]


def test_control_characters_of_a_groups_name_are_encoded_in_the_table():
    stats = LayerStats((process(members={"tea\n\x9b2J": 5}),))

    assert table(stats)[-1] == "largest groups: tea%0A%C2%9B2J 5"


def test_drops_are_listed_by_reason_and_groups_by_size():
    stats = LayerStats(
        (process(dropped={"full": 2, "lost": 0}, members={"tea": 5, "cake": 1}),)
    )

    assert table(stats, groups=1)[-3:] == [
        "dropped: 2 full",
        "",
        "largest groups: tea 5",
    ]
