"""Imports of Channels, and its names in strings: what is reported and rewritten."""

from __future__ import annotations

from textwrap import dedent

import pytest

from support.migration import report_of, rewritten

SAME = [
    (
        "from channels.generic.websocket import AsyncWebsocketConsumer",
        "from tiderace.generic.websocket import AsyncWebsocketConsumer",
    ),
    ("from channels import layers", "from tiderace import layers"),
    (
        "from channels import DEFAULT_CHANNEL_LAYER",
        "from tiderace import DEFAULT_CHANNEL_LAYER",
    ),
    (
        "from channels.testing import WebsocketCommunicator, ChannelsLiveServerTestCase",
        "from tiderace.testing import WebsocketCommunicator, ChannelsLiveServerTestCase",
    ),
    (
        "from channels.utils import await_many_dispatch",
        "from tiderace.consumer import await_many_dispatch",
    ),
    (
        "from channels.utils import await_many_dispatch, name_that_thing",
        "from tiderace.compat.naming import await_many_dispatch, name_that_thing",
    ),
    (
        "from channels_redis.core import RedisChannelLayer as Layer",
        "from tiderace.layers.redis import RedisChannelLayer as Layer",
    ),
    (
        "from channels_redis.core import RedisChannelLayer, ChannelLock",
        "from tiderace.compat.channels_redis.core import RedisChannelLayer, ChannelLock",
    ),
    ("import channels.layers as layers", "import tiderace.layers as layers"),
    (
        "from   channels.db import (  # kept\n    database_sync_to_async,\n)",
        "from   tiderace.db import (  # kept\n    database_sync_to_async,\n)",
    ),
]


@pytest.mark.parametrize(("old", "new"), SAME)
def test_an_import_gets_its_new_module_and_keeps_its_form(old, new, tmp_path):
    assert rewritten(tmp_path, old) == new


@pytest.mark.parametrize(("old", "new"), SAME)
def test_an_import_that_has_a_new_module_is_the_same(old, new, tmp_path):
    [line] = report_of(tmp_path, old)

    assert line.startswith("1 same: ")


def test_a_second_run_changes_nothing(tmp_path):
    once = rewritten(tmp_path, "\n".join(old for old, _ in SAME))

    assert rewritten(tmp_path, once) == once


def test_line_ends_tabs_and_other_letters_are_kept(tmp_path):
    text = "é = 'é'; from channels.db import x as ü\r\nif é:\r\n\tpass\r\n"
    text = text.replace("x as", "database_sync_to_async as")

    assert rewritten(tmp_path, text) == text.replace("channels", "tiderace")


def test_a_file_in_another_encoding_keeps_it(tmp_path):
    file = tmp_path / "old.py"
    text = "# -*- coding: latin-1 -*-\nfrom channels.db import database_sync_to_async\né = 1\n"
    file.write_bytes(text.encode("latin-1"))

    rewritten(tmp_path, "")

    assert file.read_bytes() == text.replace("channels", "tiderace").encode("latin-1")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            "import channels.layers\nchannels.layers.get_channel_layer()",
            "import tiderace.layers\ntiderace.layers.get_channel_layer()",
        ),
        (
            "import channels\nchannels.layers.get_channel_layer(channels.db.x)".replace(
                ".x", ".database_sync_to_async"
            ),
            (
                "import tiderace.db, tiderace.layers\n"
                "tiderace.layers.get_channel_layer(tiderace.db.database_sync_to_async)"
            ),
        ),
    ],
)
def test_uses_of_an_imported_package_are_rewritten(old, new, tmp_path):
    assert rewritten(tmp_path, old) == new


def test_a_package_whose_name_has_another_use_is_left_to_be_renamed(tmp_path):
    text = (
        "import channels.layers\n\n\ndef join(channels):\n    return channels.layers\n"
    )

    assert rewritten(tmp_path, text) == text
    assert report_of(tmp_path, text) == [
        (
            "1 changes: import channels.layers: the name channels has another use in this "
            "file; rename by hand"
        )
    ]


def test_the_version_of_channels_needs_the_alias(tmp_path):
    text = "import channels\nprint(channels.__version__)"

    assert rewritten(tmp_path, text) == text
    assert "only with install_as_channels()" in report_of(tmp_path, text)[0]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("from channels.http import AsgiHandler", "get_asgi_application()"),
        ("from channels import Group", "it is of Channels 1"),
        ("from channels.auth import nothing", "tiderace.auth has no nothing"),
        ("from channels.nothing import it", "it is not in Tiderace"),
        ("from channels.apps import ChannelsConfig", "tiderace.apps.TideraceConfig"),
        ("from channels import layers, __version__", "only with install_as_channels()"),
        ("from daphne.cli import CommandLineInterface", "uvicorn"),
        ("import channels.binding as b", "it is of Channels 1"),
    ],
)
def test_a_name_that_does_not_exist_is_unsupported(text, why, tmp_path):
    [line] = report_of(tmp_path, text)

    assert line.startswith("1 unsupported: ")
    assert why in line
    assert rewritten(tmp_path, text) == text


def test_names_of_the_stubs_are_for_type_checkers_alone(tmp_path):
    text = """\
        from typing import TYPE_CHECKING
        if TYPE_CHECKING:
            from channels.consumer import _ASGIApplicationProtocol
    """

    [line] = report_of(tmp_path, text)

    assert line.startswith("3 changes: ")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("channels.db.close_old_connections", "tiderace.db.close_old_connections"),
        ("channels.layers", "tiderace.layers"),
        (
            "channels_redis.core.RedisChannelLayer.group_send",
            "tiderace.layers.redis.RedisChannelLayer.group_send",
        ),
    ],
)
def test_a_dotted_path_in_a_string_is_rewritten(old, new, tmp_path):
    assert rewritten(tmp_path, f"mock.patch('{old}')") == f"mock.patch('{new}')"


@pytest.mark.parametrize(
    "text",
    [
        "logging.getLogger('django.channels.server')",
        "'see channels.layers for more'",
        "f'channels.layers.{name}'",
        "'channels'",
        "from .channels import layers",
        "channels = ['a']\nchannels.sort()",
    ],
)
def test_other_words_are_left_alone(text, tmp_path):
    assert rewritten(tmp_path, text) == text
    assert not report_of(tmp_path, text)


def test_a_string_in_parts_is_to_be_written_by_hand(tmp_path):
    text = "x = ('channels.'\n     'layers')"

    assert rewritten(tmp_path, text) == text
    assert report_of(tmp_path, text) == [
        '1 changes: "channels.layers": write "tiderace.layers" by hand'
    ]


def test_a_file_that_is_not_python_is_reported_if_it_names_channels(tmp_path):
    (tmp_path / "template.py").write_text("from {{ name }} import x")
    text = "from channels.db import {{ name }}"

    [line] = report_of(tmp_path, text)

    assert line.startswith("1 unsupported: cannot be read: ")


def test_environments_and_hidden_folders_are_not_read(tmp_path):
    text = dedent(SAME[0][0])
    for folder in (".hidden", "env", "node_modules", "env/lib/site-packages"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "code.py").write_text(text)
    (tmp_path / "env/pyvenv.cfg").touch()

    assert not report_of(tmp_path, "")
