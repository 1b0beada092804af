"""The script of the load test's guide, run against the README's site."""

from __future__ import annotations

import subprocess
import sys

import pytest

from support.pages.blocks import blocks_in
from support.pages.typed_site import TypedSite

pytestmark = pytest.mark.servers


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
        with subprocess.Popen(
            command, cwd=site.folder, env=site.env, stdout=subprocess.PIPE, text=True
        ) as load:
            assert load.stdout
            subscribed = load.stdout.readline()
            site.run(
                "python manage.py shell -c 'import time; from tiderace.topics import publish; "
                'publish("news:world", {"sent": time.time()})\''
            )
            result = load.stdout.read()

    assert subscribed == "20 pages have subscribed\n"
    assert result.startswith("20 deliveries: median 0.")
