"""The site of the tutorial behind nginx with TLS, started by the units of the guide."""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from browser.guides.chat_windows import (
    lines,
    log_in,
    say,
    type_parts_before,
    wait_for_room,
)
from support.pages.typed_site import TypedSite
from support.servers.nginx import guide_block, nginx_before, nginx_program
from support.servers.ports import free_port
from support.waiting import wait_until
from tiderace.server.certificate import development_certificate

pytestmark = [pytest.mark.browser, pytest.mark.servers, pytest.mark.timeout(180)]


@contextlib.contextmanager
def unit(site: TypedSite, instance: str, run: Path) -> Iterator[None]:
    """Run what ``ExecStart`` of the guide's template unit says."""
    command = re.search(r"^ExecStart=(.*)$", guide_block("ini"), re.MULTILINE)
    assert command
    line = command[1].replace("%i", instance).replace("/run/", f"{run}/")
    program, *arguments = shlex.split(line)
    found = shutil.which(Path(program).name, path=site.env["PATH"])
    assert found
    socket = run / f"mysite-{instance}/web.sock"
    socket.parent.mkdir(exist_ok=True)
    socket.unlink(missing_ok=True)
    with subprocess.Popen([found, *arguments], cwd=site.folder, env=site.env) as server:
        try:
            wait_until(socket.exists, what=line)
            yield
        finally:
            server.send_signal(signal.SIGTERM)


def room_window(
    new_context: Callable[..., BrowserContext], url: str, name: str
) -> Page:
    """Return a window in which a user has entered the room."""
    page = new_context(ignore_https_errors=True).new_page()
    page.goto(f"{url}/chat/tea/")
    log_in(page, name)
    wait_for_room(page)
    return page


def test_the_tutorials_site_runs_behind_nginx_with_tls(
    typed_site, new_context, tmp_path_factory
):
    nginx = nginx_program()
    if nginx is None:
        pytest.skip("no nginx; install the package nginx")
    # The paths of Unix sockets are short.
    run = tmp_path_factory.mktemp("run")
    type_parts_before(typed_site, 6)
    typed_site.type_preparations()
    port = free_port()
    url = f"https://localhost:{port}"
    folder = tmp_path_factory.mktemp("nginx")
    certificate = development_certificate("localhost", folder)
    sockets = [f"unix:{run}/mysite-{number}/web.sock" for number in (1, 2)]
    static = f"{typed_site.folder}/static/"

    with (
        nginx_before(
            nginx, folder, port, sockets, certificate=certificate, alias=static
        ),
        unit(typed_site, "1", run),
    ):
        with unit(typed_site, "2", run):
            alice = room_window(new_context, url, "alice")
            bob = room_window(new_context, url, "bob")
            say(alice, "before")
            expect(lines(bob)).to_have_text(["alice: before"])
        # One of the processes has been stopped: its window is served by the other one.
        say(bob, "after")

        for page in (alice, bob):
            expect(lines(page)).to_have_text(["alice: before", "bob: after"])
        cookies = {each["name"]: each["secure"] for each in alice.context.cookies()}
        assert cookies["sessionid"]
