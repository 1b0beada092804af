"""The migration where the packages of the layer over Redis are not installed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from support.migration import lay_out

MIGRATE = """
import sys
sys.modules.update(redis=None, hiredis=None)
from tiderace.__main__ import main
print("imported")
sys.exit(main(["migrate", sys.argv[1]]))
"""
LAYER = """\
    CHANNEL_LAYERS = {
        "default": {"BACKEND": "channels_redis.core.RedisChannelLayer", "CONFIG": {}},
    }
"""
CONSUMER = """\
    from channels.generic.websocket import AsyncWebsocketConsumer

    class Chat(AsyncWebsocketConsumer):
        async def connect(self):
            self.channel_layer._brokers
"""


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        (
            "settings.py",
            LAYER,
            "its options are not examined: the layer over Redis needs",
        ),
        ("code.py", CONSUMER, "InMemoryChannelLayer does not have it; to examine"),
    ],
)
def test_an_examination_without_the_redis_extra_says_how_to_install_it(
    tmp_path, name, text, expected
):
    done = subprocess.run(
        [sys.executable, "-c", MIGRATE, lay_out(tmp_path, {name: text})],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stdout.startswith("imported"), done.stderr
    assert expected in done.stdout
    assert 'pip install "tiderace[redis]"' in done.stdout
