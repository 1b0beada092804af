"""Consumers, routes, layers and tests of a Channels project: what is reported."""

from __future__ import annotations

import pytest

from support.migration import lay_out, report_of
from tiderace.migration.project import Project

CONSUMER = "from channels.generic.websocket import AsyncWebsocketConsumer\n"


def lines_behind_import(folder, text):
    return report_of(folder, CONSUMER + text)[1:]


def test_a_consumer_of_channels_is_reported_as_the_same(tmp_path):
    text = """\
class Chat(AsyncWebsocketConsumer):
    groups = ["lobby"]

    async def receive(self, text_data=None, bytes_data=None):
        await self.send(text_data=text_data)
"""
    assert lines_behind_import(tmp_path, text) == ["2 same: consumer Chat"]


@pytest.mark.parametrize(
    "body",
    [
        "def spawn(self): pass",
        "async def on_error(self, error): pass",
        "_routes = {}",
        "def connect(self): self._handlers = []",
        "_background: int = 3",
    ],
)
def test_a_name_that_tiderace_has_added_is_unsupported(body, tmp_path):
    text = f"class Chat(AsyncWebsocketConsumer):\n    {body}\n"

    [line] = lines_behind_import(tmp_path, text)

    assert line.startswith("3 unsupported: Chat.")
    assert "rename it" in line


def test_groups_as_a_string_are_unsupported(tmp_path):
    text = 'class Chat(AsyncWebsocketConsumer):\n    groups = "lobby"\n'

    [line] = lines_behind_import(tmp_path, text)

    assert "write a list" in line


def test_a_consumer_over_one_in_another_file_is_found(tmp_path):
    files = {
        "base.py": f"{CONSUMER}class Base(AsyncWebsocketConsumer): pass",
        "chat.py": "from base import Base\nclass Chat(Base):\n    def spawn(self): pass",
        "kafka.py": "class KafkaConsumer(Reader):\n    def spawn(self): pass",
    }
    project = Project.read(lay_out(tmp_path, files))

    unsupported = [
        (path.name, finding.line)
        for path, finding in project.lines()
        if finding.verdict == "unsupported"
    ]

    assert unsupported == [("chat.py", 3)]


@pytest.mark.parametrize("how", ["StopConsumer", "StopConsumer()"])
def test_a_consumer_that_stops_itself_is_ended_in_another_way(how, tmp_path):
    text = f"""\
class Chat(AsyncWebsocketConsumer):
    async def receive(self, text_data=None, bytes_data=None):
        raise {how}
"""
    [line] = lines_behind_import(tmp_path, text)

    assert line.startswith("4 changes: Chat: after StopConsumer")


def test_stopping_at_the_disconnect_is_the_same(tmp_path):
    text = """\
class Chat(AsyncWebsocketConsumer):
    async def websocket_disconnect(self, event):
        raise StopConsumer()
"""
    assert lines_behind_import(tmp_path, text) == ["2 same: consumer Chat"]


def test_a_consumer_of_http_changes(tmp_path):
    text = """\
from channels.generic.http import AsyncHttpConsumer
class Feed(AsyncHttpConsumer): pass
"""
    assert report_of(tmp_path, text)[1].startswith("2 changes: Feed: disconnect() runs")


@pytest.mark.parametrize("function", ["path", "re_path"])
def test_a_route_to_a_class_is_unsupported(function, tmp_path):
    text = f"""\
class Chat(AsyncWebsocketConsumer): pass
routes = [{function}("a/", Chat), {function}("b/", Chat.as_asgi())]
"""
    assert lines_behind_import(tmp_path, text)[1:] == [
        "3 unsupported: the route names the class Chat; write Chat.as_asgi()"
    ]


@pytest.mark.parametrize(
    ("attribute", "verdict"),
    [("_group_key", "changes"), ("_clean_expired", "unsupported")],
)
def test_private_names_of_a_layer_are_reported(attribute, verdict, tmp_path):
    [line] = report_of(tmp_path, f"self.channel_layer.{attribute}('x')")

    assert line.startswith(f"1 {verdict}: channel_layer.{attribute}")


def test_public_names_of_a_layer_are_the_same(tmp_path):
    assert not report_of(tmp_path, "await self.channel_layer.group_send('x', {})")


def test_keys_in_redis_are_unsupported(tmp_path):
    [line] = report_of(tmp_path, 'redis.zcard("asgi:group:lobby")')

    assert "layer.group_count()" in line


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("from channels.layers import BaseChannelLayer as B\nclass L(B): pass", "same"),
        (
            "from channels.layers import BaseChannelLayer\nclass L(BaseChannelLayer): pass",
            "changes",
        ),
        (
            (
                "from channels.security.websocket import WebsocketDenier\n"
                "class D(WebsocketDenier): pass"
            ),
            "unsupported",
        ),
        (
            (
                "from channels.testing import ChannelsLiveServerTestCase\n"
                "class T(ChannelsLiveServerTestCase): pass"
            ),
            "changes",
        ),
        (
            (
                "from channels.testing import ChannelsLiveServerTestCase\n"
                "class T(ChannelsLiveServerTestCase):\n    x = self._server_process"
            ),
            "unsupported",
        ),
    ],
)
def test_a_class_over_one_of_channels_is_reported(text, verdict, tmp_path):
    assert f" {verdict}: " in report_of(tmp_path, text)[-1]


def test_a_package_that_runs_is_reported_once_for_its_import(tmp_path):
    text = "from djangochannelsrestframework.decorators import action"

    assert report_of(tmp_path, text) == [
        (
            "1 same: djangochannelsrestframework imports Channels: it runs with "
            "install_as_channels()"
        )
    ]


def test_a_package_for_channels_1_is_unsupported(tmp_path):
    [line] = report_of(tmp_path, "import channels_jsonrpc")

    assert "only Channels 1 had" in line


@pytest.mark.parametrize(
    ("name", "line", "text"),
    [
        ("requirements.txt", "channels[daphne]==4.2  # sockets", "tiderace[server]"),
        ("requirements-dev.txt", "channels_redis", "tiderace[redis]"),
        ("pyproject.toml", '    "daphne>=4",', "unless it serves your production"),
        ("setup.cfg", "    channels>=4", "tiderace[server]"),
        ("Procfile", "web: daphne -p $PORT mysite.asgi:application", "uvicorn"),
        ("Dockerfile", 'CMD ["daphne", "-b", "0.0.0.0", "mysite.asgi:app"]', "uvicorn"),
    ],
)
def test_files_that_name_packages_and_processes_are_read(name, line, text, tmp_path):
    [found] = report_of(tmp_path, f"# first line\n{line}\n", name)

    assert found.startswith("2 changes: ")
    assert text in found


@pytest.mark.parametrize(
    "line", ["django-channels-graphql-ws", "channelsmultiplexer", "# channels"]
)
def test_other_packages_are_left_alone(line, tmp_path):
    assert not report_of(tmp_path, line, "requirements.txt")
