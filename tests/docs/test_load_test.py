"""The script of the load test's guide, run against the README's site."""

from __future__ import annotations

import sys
from subprocess import PIPE, Popen

import pytest

from support.pages.blocks import blocks_in
from support.pages.typed_site import TypedSite

pytestmark = pytest.mark.servers

# Everything is loaded before the script counts its seconds.
PUBLISH = """
import time
from tiderace.topics import publish
publish("news:before", {})
print("ready", flush=True)
input()
publish("news:world", {"sent": time.time()})
"""


def test_the_script_counts_what_every_page_receives(tmp_path):
    [script] = [
        block
        for block in blocks_in("docs/guides/load-test.md")
        if block.file == "loadtest.py"
    ]
    with TypedSite(tmp_path) as site:
        site.read("README.md")
        site.type_until("runserver")
        site.write(script)
        origin = site.url()
        command = [
            *(sys.executable, "-u", "loadtest.py"),
            *(f"{origin.replace('http', 'ws')}/connection/websocket", origin),
            *("news:world", "20", "5"),
        ]
        options = {"cwd": site.folder, "env": site.env, "stdout": PIPE, "text": True}
        shell = [sys.executable, "manage.py", "shell", "-c", PUBLISH]
        with Popen(shell, stdin=PIPE, **options) as publisher:
            while publisher.stdout.readline() != "ready\n":
                assert publisher.poll() is None
            with Popen(command, **options) as load:
                subscribed = load.stdout.readline()
                publisher.communicate("\n")
                result = load.stdout.read()

    assert subscribed == "20 pages have subscribed\n"
    assert result.startswith("20 deliveries: median 0.")
