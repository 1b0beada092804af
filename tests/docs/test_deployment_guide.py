"""The numbers in the deployment guide match those in the code."""

from __future__ import annotations

import re

import pytest
from django.test import override_settings

from support.paths import ROOT
from tiderace import conf
from tiderace.health import urlpatterns
from tiderace.runtime.drain import drain_seconds

GUIDE = (ROOT / "docs/guides/deployment.md").read_text("utf-8")
# Seconds that the server has for requests after a drain, in all examples.
SERVERS_OWN = 5


@pytest.fixture
def longest_end():
    """Seconds that a process may take for its end with the default settings."""
    with override_settings(TIDERACE={}, DEBUG=False):
        yield drain_seconds() + conf.current().drain_grace + SERVERS_OWN


def numbers(pattern):
    found = [float(number) for number in re.findall(pattern, GUIDE)]
    assert found, pattern
    return found


def test_the_documented_defaults_are_correct():
    with override_settings(TIDERACE={}, DEBUG=False):
        assert f"`DRAIN_SECONDS` ({drain_seconds():g})" in GUIDE
        assert f"`DRAIN_GRACE` seconds ({conf.current().drain_grace:g})" in GUIDE


def test_every_example_has_the_same_server_timeout():
    times = numbers(r"--timeout-graceful-shutdown\"?,? \"?(\d+)")

    assert set(times) == {SERVERS_OWN}


@pytest.mark.parametrize(
    "pattern",
    [
        r"TimeoutStopSec=(\d+)",
        r"--graceful-timeout (\d+)",
        r"stop_grace_period: (\d+)s",
        r"docker stop --time (\d+)",
    ],
)
def test_no_kill_timeout_is_shorter_than_the_drain(pattern, longest_end):
    assert min(numbers(pattern)) > longest_end


def test_kubernetes_waits_for_the_hook_before_the_drain_as_well(longest_end):
    [grace] = numbers(r"terminationGracePeriodSeconds: (\d+)")
    [hook] = numbers(r'command: \["sleep", "(\d+)"\]')

    assert grace > hook + longest_end


def test_the_probes_ask_paths_that_there_are():
    asked = set(re.findall(r"httpGet: \{path: /(\w+)", GUIDE))

    assert asked == {str(route.pattern) for route in urlpatterns}


def test_proxies_wait_for_more_than_two_pings():
    longest = max(20.0, conf.current().topics.ping)  # uvicorn's, or that of topics

    assert min(numbers(r"proxy_read_timeout (\d+)s")) > 2 * longest
