"""``manage.py check_channels``: what works, what does not, in words and exit codes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys

import pytest
from django.core.management import CommandError, call_command
from django.test import override_settings

from support.paths import TESTS
from support.servers.brokers import Server
from tiderace.layers import InMemoryChannelLayer
from tiderace.layers.base import BaseChannelLayer
from tiderace.layers.redis import RedisChannelLayer

MEMORY = {"BACKEND": "tiderace.layers.InMemoryChannelLayer"}


def redis_layer(url: str, **options):
    backend = "tiderace.layers.redis.RedisChannelLayer"
    return {"BACKEND": backend, "CONFIG": {"hosts": [url], **options}}


def check(layers, *arguments: str) -> str:
    """Run the command and return its output."""
    output = io.StringIO()
    with override_settings(CHANNEL_LAYERS=layers):
        call_command("check_channels", *arguments, stdout=output, no_color=True)
    return output.getvalue()


def failure(layers, *arguments: str) -> tuple[str, str]:
    """Run the command and return its output and the text of its error."""
    output = io.StringIO()
    with (
        override_settings(CHANNEL_LAYERS=layers),
        pytest.raises(CommandError) as failed,
    ):
        call_command("check_channels", *arguments, stdout=output, no_color=True)
    assert failed.value.returncode == 1
    return output.getvalue(), str(failed.value)


@pytest.fixture(scope="module")
def server():
    with Server() as server:
        yield server


def test_a_layer_in_memory_works_in_this_process():
    lines = check({"default": MEMORY}).splitlines()

    assert lines[0] == "default  tiderace.layers.InMemoryChannelLayer"
    assert lines[1].startswith("  ok    send and receive")
    assert lines[1].endswith("in this process alone")
    assert lines[2].startswith("  ok    group")
    assert lines[3].startswith("  n/a   recovery")


def test_a_layer_with_a_broker_recovers_from_a_lost_connection(server):
    told = json.loads(check({"default": redis_layer(server.url)}, "--json"))

    steps = {step["name"]: step for step in told["default"]["steps"]}
    assert told["default"]["passed"] is True
    assert [step["passed"] for step in steps.values()] == [True] * 3
    assert all(0 < step["seconds"] < 5 for step in steps.values())
    assert (
        "3 messages sent while the connection was cut came"
        in (steps["recovery"]["note"])
    )


def test_the_probe_suppresses_warnings_of_its_own_disconnection(server, caplog):
    check({"default": redis_layer(server.url)})

    assert "broke" not in caplog.text


def test_nothing_is_left_behind_on_the_server(server):
    server.flush()

    check({"default": redis_layer(server.url, prefix="left", expiry=1)})

    kept = [key for key in server.call("KEYS", "left*") if b":meta" not in key]
    assert all(server.call("PTTL", key) > 0 for key in kept)


def test_a_broker_that_is_away_is_a_failure_with_the_address_and_no_password():
    away = redis_layer("redis://:secret@127.0.0.1:1/0", publish_timeout=0.05)

    output, error = failure({"default": MEMORY, "away": away})

    assert error == "not working: away"
    [line] = [line for line in output.splitlines() if "FAIL" in line]
    assert "127.0.0.1:1/0 could not be reached" in line
    assert "check that it runs" in line
    assert "secret" not in output


def test_steps_after_a_failed_one_are_not_run():
    away = redis_layer("redis://127.0.0.1:1/0", publish_timeout=0.05)

    output, _ = failure({"default": away})

    assert "group" not in output


def test_one_layer_alone_may_be_checked():
    away = redis_layer("redis://127.0.0.1:1/0", publish_timeout=0.05)

    output = check({"default": MEMORY, "away": away}, "--layer", "default")

    assert "away" not in output


def test_a_layer_that_is_not_configured_is_named_with_those_that_are():
    _, error = failure({"default": MEMORY}, "--layer", "defualt")

    assert error == "CHANNEL_LAYERS has no layer 'defualt' (there is: default)."


def test_the_error_without_layers_names_the_setting():
    _, error = failure({})

    assert "CHANNEL_LAYERS is empty" in error
    assert '"BACKEND"' in error


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ({"BACKEND": "nowhere.Layer"}, "Cannot import BACKEND 'nowhere.Layer'"),
        ({**MEMORY, "CONFIG": {"capacty": 1}}, "did you mean 'capacity'?"),
        ({}, "No BACKEND"),
    ],
)
def test_a_layer_that_cannot_be_made_is_reported_as_a_failure(entry, problem):
    output, error = failure({"default": entry})

    assert problem in output
    assert "correct CHANNEL_LAYERS['default']" in output
    assert error == "not working: default"


class Forgetful(InMemoryChannelLayer):
    """A layer that loses messages to named channels."""

    async def send(self, channel, message):
        if not channel.startswith("tiderace-check"):
            await super().send(channel, message)


class Mangling(InMemoryChannelLayer):
    async def receive(self, channel):
        return {**await super().receive(channel), "number": 7}


class Clinging(InMemoryChannelLayer):
    async def group_discard(self, group, channel):
        pass


class Groupless(BaseChannelLayer):
    """A layer of another project: channels in one place, no groups."""

    boxes = {}

    async def send(self, channel, message):
        self.boxes.setdefault(channel, []).append(message)

    async def receive(self, channel):
        return self.boxes[channel].pop(0)

    async def new_channel(self):
        return "specific!x"


class Forgetting(RedisChannelLayer):
    """A layer that forgets its groups when its connections break."""

    async def interrupt(self):
        await self.flush()


def own(layer, **config):
    return {"BACKEND": f"{__name__}.{layer.__name__}", "CONFIG": config}


def test_a_message_that_never_arrives_is_a_failure_after_the_timeout():
    output, _ = failure({"default": own(Forgetful)}, "--timeout", "0.05")

    assert "nothing arrived within 0.05 s" in output


def test_a_message_that_arrives_changed_is_a_failure():
    output, _ = failure({"default": own(Mangling)})

    assert "what arrived is not what was sent" in output
    assert "'number': 7" in output


def test_a_channel_that_never_leaves_its_group_is_a_failure():
    output, _ = failure({"default": own(Clinging)})

    assert "a channel that had left a group still got its messages" in output


def test_a_layer_that_does_not_recover_is_a_failure(server):
    layers = {"default": own(Forgetting, hosts=[server.url], prefix="forgets")}

    output, _ = failure(layers, "--timeout", "0.5")

    assert "FAIL  recovery" in output


def test_a_feature_that_another_projects_layer_lacks_is_no_failure():
    lines = check({"default": own(Groupless)}).splitlines()

    assert lines[1].startswith("  ok    send and receive")
    assert lines[2].startswith("  n/a   group")
    assert "does not fetch what a process missed" in lines[3]


def test_the_exit_code_shows_the_result():
    settings = "from settings import *\nCHANNEL_LAYERS = {'default': {}}\n"
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    program = (
        f"import sys, types; m = types.ModuleType('other'); exec({settings!r}, m.__dict__)"
        "; sys.modules['other'] = m; from django.core.management import "
        "execute_from_command_line as run; run(['manage.py', 'check_channels'])"
    )

    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**environment, "DJANGO_SETTINGS_MODULE": "other"},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    assert done.returncode == 1
    assert "not working: default" in done.stderr
