"""The project, the units and the nginx configuration of the guide for WSGI sites."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from support.pages.blocks import blocks_in
from support.servers.nginx import running_nginx
from support.servers.ports import free_port
from support.servers.systemd import Unit
from support.waiting import until

pytestmark = [pytest.mark.servers, pytest.mark.timeout(120)]

BLOCKS = blocks_in("docs/guides/keep-wsgi.md")


@pytest.fixture
def project(tmp_path):
    """A new project with the files of the guide."""
    folder = tmp_path / "mysite"
    folder.mkdir()
    manage(folder, "-m", "django", "startproject", "mysite", ".")
    # What startproject writes has no STATIC_ROOT, which nginx serves.
    settings = folder / "mysite/settings.py"
    settings.write_text(settings.read_text() + "\nSTATIC_ROOT = BASE_DIR / 'static'\n")
    written = set()
    for block in BLOCKS:
        # The second settings are those of a host of its own.
        if not block.file or block.file in written or block.language == "ini":
            continue
        written.add(block.file)
        path = folder / block.file
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a" if path == settings else "w") as file:
            file.write(f"\n{block.code}")
    (folder / "news/__init__.py").touch()
    manage(folder, "manage.py", "collectstatic", "--noinput")
    return folder


def environment():
    return {k: v for k, v in os.environ.items() if k != "DJANGO_SETTINGS_MODULE"}


def manage(folder, *arguments):
    command = [sys.executable, *arguments]
    subprocess.run(
        command,
        cwd=folder,
        env=environment(),
        check=True,
        timeout=60,
        stdout=subprocess.DEVNULL,
    )


def installed(words):
    """Return the command of a unit with the programs of this environment."""
    program = words[0].removeprefix("/srv/mysite/.venv/bin/")
    assert program in ("python", "gunicorn")
    module = [] if program == "python" else ["-m", program]
    return [sys.executable, *module, *words[1:]]


@pytest.fixture
async def site(nginx, project, tmp_path):
    """Start the guide's two units and nginx; return the site, its units in ``units``."""
    if shutil.which("curl") is None:
        pytest.skip("no curl, which the guide's unit runs; install the package curl")
    run = tmp_path / "run"
    run.mkdir()
    units = [
        Unit(block.code, run, installed, cwd=project, env=environment())
        for block in BLOCKS
        if block.language == "ini"
    ]
    [configuration] = [block.code for block in BLOCKS if block.language == "nginx"]
    configuration = configuration.replace("/run/", f"{run}/")
    configuration = configuration.replace("/srv/mysite/static/", f"{project}/static/")
    port, folder = free_port(), tmp_path / "nginx"
    folder.mkdir()
    try:
        await asyncio.gather(*(unit.start() for unit in units))
        with running_nginx(nginx, folder, port, configuration):
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
                site = Site(http, port, *units)
                await site.until_pages()
                yield site
    finally:
        for unit in units:
            await unit.kill()


class Site:
    """The connections of one browser to the site.

    Args:
        http: a client with cookies.
        port: of nginx.
        pages: the unit of the pages.
        live: the unit of the sockets.
    """

    def __init__(self, http, port, pages, live):
        self.http = http
        self.pages, self.live = pages, live
        self.origin = f"http://127.0.0.1:{port}"
        self._topics = f"ws://127.0.0.1:{port}/live/connection/websocket"

    async def until_pages(self):
        """Wait until gunicorn, which reports no readiness, answers."""

        async def answers():
            return (await self.http.get("/")).status_code == 200

        await until(answers)

    async def announce(self, text):
        token = self.http.cookies["csrftoken"]
        headers = {"X-CSRFToken": token, "Origin": self.origin}
        answer = await self.http.post(
            "/announce/", data={"text": text}, headers=headers
        )
        assert answer.status_code == 204

    async def subscribe(self, **position):
        """Return a client of the topic, and the reply to its subscription."""
        client = await connect(self._topics, origin=self.origin)
        subscription = {"channel": "news", **position}
        commands = ({"id": 1, "connect": {}}, {"id": 2, "subscribe": subscription})
        await client.send("\n".join(json.dumps(command) for command in commands))
        replies = []
        while len(replies) < 2:
            replies += (await client.recv()).splitlines()
        return client, json.loads(replies[1])["subscribe"]


async def test_a_page_of_the_wsgi_server_publishes_to_the_sockets(site):
    client, _ = await site.subscribe()

    await site.announce("hello")

    push = json.loads(await client.recv())["push"]
    assert push["pub"]["data"] == {"text": "hello"}
    await client.close()


async def test_the_page_loads_the_script_and_names_the_topics(site):
    page = (await site.http.get("/")).text
    script = await site.http.get("/static/tiderace/tiderace.js")

    assert '"topics": "/live/connection/"' in page
    assert script.status_code == 200


async def test_the_process_of_the_sockets_serves_no_page(site):
    assert (await site.http.get("/live/")).status_code == 404
    assert (await site.http.get("/live/admin/")).status_code == 404


async def test_a_page_of_another_site_is_refused(site):
    site.origin = "http://other.example"

    with pytest.raises(InvalidStatus) as refusal:
        await site.subscribe()

    assert refusal.value.response.status_code == 403


async def test_a_restart_of_the_sockets_loses_no_publication(site):
    client, before = await site.subscribe()

    await site.live.stop()
    with pytest.raises(ConnectionClosed) as closed:
        await client.recv()
    await site.announce("while away")
    await site.live.start()
    position = {"epoch": before["epoch"], "offset": before.get("offset", 0)}
    client, after = await site.subscribe(recover=True, **position)

    assert closed.value.rcvd.code == 3001
    assert [each["data"] for each in after["publications"]] == [{"text": "while away"}]
    await client.close()
