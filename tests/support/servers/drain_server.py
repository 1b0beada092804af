"""A site with a journal on a real server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import time
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from support.servers.asgi_process import AsgiProcess

_PYTHON = (sys.executable, "-W", "default", "-m")


class Site(AsgiProcess):
    """``sites.drain_site`` on a server, with its journal."""

    def __init__(
        self, directory, *, server="uvicorn", options=(), startup=0, **settings
    ):
        self.journal = directory / "journal"
        self.journal.touch()
        self._startup = startup
        site = {
            "journal": str(self.journal),
            "tiderace": settings,
            "startup": startup,
        }
        self._options = tuple(options)
        super().__init__(
            server, "sites.drain_site:application", env={"DRAIN_SITE": json.dumps(site)}
        )

    def _line(self, application):
        if self.server == "gunicorn":
            line = [*_PYTHON, "gunicorn", "--bind", f"127.0.0.1:{self.port}"]
            return [*line, *self._options, application]
        return [*super()._line(application), *self._options]

    def _listens(self):
        said = self.journal.read_text()
        if self._startup:  # the test does not wait for the end of it
            return "starting" in said
        # Who has workers listens before one of them can answer.
        return "started" in said and super()._listens()

    def sigterm(self):
        self.process.send_signal(signal.SIGTERM)

    def count(self, line):
        return self.journal.read_text().splitlines().count(line)


@pytest.fixture
def drain_site(tmp_path):
    """Start ``sites.drain_site``; every process of it ends with the test."""
    with contextlib.ExitStack() as stack:

        def start(**settings):
            return stack.enter_context(Site(tmp_path, **settings))

        yield start


async def end_of(client):
    """Return (when, code, reason) of the server's close, in monotonic seconds."""
    async with asyncio.timeout(30):
        await client.wait_closed()
    assert client.close_code != 1006, "the connection was cut without a word"
    return time.monotonic(), client.close_code, client.close_reason


async def status_of(url):
    def ask():
        try:
            with urlopen(url, timeout=10) as page:
                return page.status
        except HTTPError as error:
            return error.code

    return await asyncio.to_thread(ask)


async def exit_of(server):
    return await asyncio.to_thread(server.process.wait, 15)
