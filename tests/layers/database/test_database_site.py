"""Sites of several processes over a database: commands, servers and test runners."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from support.pages.blocks import blocks_in
from support.pages.typed_site import PASSWORD, TypedSite
from support.paths import ROOT
from support.servers.demo_process import DemoProcess, Visitor, Window
from support.servers.ports import free_port
from support.servers.postgresql import shared_postgresql  # noqa: F401 (a fixture)
from support.waiting import wait_until

pytestmark = [pytest.mark.servers, pytest.mark.timeout(240)]


@pytest.fixture
def demo(tmp_path):
    """The demo in two processes."""
    with DemoProcess(tmp_path, "--layer", "database", "--workers", "2") as demo:
        yield demo


@pytest.fixture
def in_both(demo):
    """Open sockets in a room until both processes have one."""
    with contextlib.ExitStack() as windows:
        alice = windows.enter_context(contextlib.closing(demo.visitor()))
        alice.log_in("alice")
        opened = []

        def both_listen():
            opened.append(windows.enter_context(alice.room("lobby")))
            wakeups = demo.folder / "demo.tiderace.sqlite3-wake"
            return len(list(wakeups.iterdir())) == 2

        wait_until(both_listen, timeout=60, what="a socket in both processes")
        yield opened


def test_a_new_project_needs_two_settings_for_servers_a_worker_and_the_shell(tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts/try_wheel.py")],
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if not k.startswith("DJANGO_")},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )

    assert done.stdout.endswith("the package works\n"), done.stdout + done.stderr


def test_commands_see_the_layer_of_two_processes(demo, in_both):
    def all_are_reported():
        shown = demo.manage("tiderace_top", "--once", "--json")
        assert shown.returncode == 0, shown.stderr
        processes = json.loads(shown.stdout)["processes"]
        clients = sum(each["topic_clients"] for each in processes)
        return len(processes) == 2 and clients == len(in_both)

    checked = demo.manage("check_channels")
    diagnosed = demo.manage("tiderace_doctor")

    assert checked.returncode == 0, checked.stdout
    assert "recovery" in checked.stdout
    assert diagnosed.returncode == 0, diagnosed.stdout
    assert "layer default\n  ok       send and receive" in diagnosed.stdout
    wait_until(all_are_reported, timeout=60, what="reports of both processes")


def test_a_drain_closes_the_sockets_of_both_processes(demo, in_both):
    drained = demo.manage("tiderace_drain")

    assert drained.returncode == 0, drained.stdout + drained.stderr
    assert close_codes(in_both) == {3001}


def close_codes(windows):
    """Return the codes with which the server closes the sockets."""
    codes = set()
    for window in windows:
        with pytest.raises(ConnectionClosed) as closed:
            window.until_closed()
        codes.add(closed.value.rcvd.code)
    return codes


@dataclass
class Project:
    """The project of the README over a database."""

    site: TypedSite
    receivers: Callable[[], int]
    """Returns how many processes receive the messages of others."""


@pytest.fixture(params=["sqlite", "postgresql"])
def project(request, tmp_path):
    with TypedSite(tmp_path) as site:
        site.start_project("news")
        site.read("README.md")
        site.type_files()
        if request.param == "sqlite":
            site.run("python manage.py migrate")
            wakeups = site.folder / "db.tiderace.sqlite3-wake"
            yield Project(site, lambda: len(list(wakeups.iterdir())))
            return
        server = request.getfixturevalue("shared_postgresql")
        name = f"site_{secrets.token_hex(4)}"
        server.call(f"CREATE DATABASE {name}")
        site.add_settings(
            f"DATABASES = {{'default': {server.database(name)!r}}}\n"
            "INSTALLED_APPS += ['tiderace.layers.database']\n"
        )
        site.run("python manage.py migrate")

        def receivers():
            ((count,),) = server.call(
                "SELECT count(*) FROM pg_stat_activity "
                "WHERE application_name = 'tiderace listen' AND datname = %s",
                name,
            )
            return count

        yield Project(site, receivers)


@dataclass
class Gunicorn:
    """A server of two workers."""

    process: subprocess.Popen[bytes]
    url: str


@pytest.fixture
def gunicorn(project):
    """The project in two workers that are forked from a process which has loaded it."""
    address = f"127.0.0.1:{free_port()}"
    worker = "tiderace.server.gunicorn.UvicornWorker"
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "gunicorn", "mysite.asgi:application"),
            *("-k", worker, "-w", "2", "--preload", "-b", address),
        ],
        cwd=project.site.folder,
        env=project.site.env,
        stderr=subprocess.DEVNULL,
    ) as server:
        try:
            yield Gunicorn(server, f"http://{address}")
        finally:
            server.send_signal(signal.SIGINT)


@pytest.fixture
def in_both_workers(project, gunicorn):
    """Open sockets that are subscribed to a topic until both workers have one."""
    with contextlib.ExitStack() as windows:
        opened = []

        def both_listen():
            connection = connect(
                f"{gunicorn.url.replace('http', 'ws')}/connection/websocket",
                origin=gunicorn.url,
            )
            window = Window(windows.enter_context(connection))
            window.client = window.ask(connect={})["connect"]["client"]
            assert "subscribe" in window.ask(subscribe={"channel": "news:world"})
            opened.append(window)
            return project.receivers() == 2

        wait_until(
            both_listen, ignored=OSError, timeout=60, what="a socket in both workers"
        )
        yield opened


def test_two_workers_of_gunicorn_and_the_shell_share_a_topic(project, in_both_workers):
    project.site.run(
        'python manage.py shell -c "from tiderace.topics import publish; '
        "publish('news:world', {'text': 'to all'})\""
    )

    received = [window.publication() for window in in_both_workers]

    assert received == [{"text": "to all"}] * len(in_both_workers)


def test_commands_see_the_layer_of_two_workers_of_gunicorn(project, in_both_workers):
    def all_are_reported():
        shown = project.site.run("python manage.py tiderace_top --once --json 2>&1")
        processes = json.loads(shown)["processes"]
        clients = sum(each["topic_clients"] for each in processes)
        return len(processes) == 2 and clients == len(in_both_workers)

    checked = project.site.run("python manage.py check_channels")
    diagnosed = project.site.run("python manage.py tiderace_doctor")

    assert "recovery" in checked
    assert "layer default\n  ok       send and receive" in diagnosed
    wait_until(all_are_reported, timeout=60, what="reports of both processes")


def test_sigterm_closes_the_sockets_of_both_workers(gunicorn, in_both_workers):
    gunicorn.process.terminate()

    assert close_codes(in_both_workers) == {3001}
    assert gunicorn.process.wait(60) == 0


def test_the_admin_lists_the_sockets_of_both_workers(
    project, gunicorn, in_both_workers
):
    project.site.run(
        "python manage.py createsuperuser --username staff --email staff@example.com"
    )
    staff = Visitor(gunicorn.url)
    with contextlib.closing(staff):
        staff.post("/admin/login/", username="staff", password=PASSWORD)
        page = staff.http.get("/admin/tiderace/connections/").text

    listed = dict(
        re.findall(
            r'<tr id="connection-(.+?)">.+?</time></td>\s*<td>(.+?)</td>',
            page,
            re.DOTALL,
        )
    )
    assert set(listed) == {window.client for window in in_both_workers}
    assert len(set(listed.values())) == 2


@pytest.fixture
def monitored(project):
    """The same with the view and the variable of the monitoring guide."""
    (view,) = (
        block
        for block in blocks_in("docs/guides/monitoring.md")
        if block.file == "mysite/urls.py"
    )
    project.site.write(view)
    folder = project.site.folder / "metrics"
    project.site.run(f"export PROMETHEUS_MULTIPROC_DIR={folder}")


def test_a_scrape_of_either_worker_has_the_sum_of_both(
    monitored, gunicorn, in_both_workers
):
    def scrape():
        # Each request opens its own connection, which either worker accepts.
        return httpx.get(f"{gunicorn.url}/metrics").text.splitlines()

    expected = f"tiderace_topic_connections {float(len(in_both_workers))}"
    wait_until(
        lambda: all(expected in scrape() for _ in range(10)),
        timeout=60,
        what="the sum in ten scrapes",
    )


# Test runners

TESTS = """
from django.contrib.auth.models import User
from django.db import transaction
from django.test import TestCase, TransactionTestCase

from tiderace.layers import get_channel_layer
from tiderace.topics import publish


class Common:
    async def test_a_message_arrives(self):
        layer = get_channel_layer()
        name = await layer.new_channel()
        await layer.group_add("room", name)
        await User.objects.acreate(username="alice")
        await layer.group_send("room", {"type": "said", "by": type(self).__name__})
        self.assertEqual((await layer.receive(name))["by"], type(self).__name__)


class InTestCase(Common, TestCase):
    def test_a_commit_publishes(self):
        with self.captureOnCommitCallbacks(execute=True):
            publish("news:world", {"text": User.objects.create(username="bob").username})


class InTransactionTestCase(Common, TransactionTestCase):
    def test_a_commit_publishes(self):
        with transaction.atomic():
            publish("news:world", {"text": User.objects.create(username="bob").username})
"""


@pytest.fixture
def tested(project):
    """The same with tests in two modules."""
    for name in ("test_one.py", "test_two.py"):
        (project.site.folder / "news" / name).write_text(TESTS)
    return project.site


def test_tests_of_a_project_run_in_parallel(tested):
    output = tested.run("python -W error manage.py test --parallel 2")

    assert "Ran 8 tests" in output
    assert "OK" in output


@pytest.mark.parametrize("option", ["", "--nomigrations"])
def test_tests_of_a_project_run_under_pytest_in_two_processes(tested, option):
    (tested.folder / "pytest.ini").write_text(
        "[pytest]\nDJANGO_SETTINGS_MODULE = mysite.settings\n"
        "asyncio_default_fixture_loop_scope = function\nfilterwarnings = error\n"
    )

    assert "8 passed" in tested.run(f"python -m pytest -q -n 2 {option}")


# A process with the file of a database in memory, and a child of it.
CHILD = """
import multiprocessing, os, sys
from django.conf import settings
settings.configure(DATABASES={"default": {
    "ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}})
from tiderace.layers.database.sqlite.vendor import SqliteVendor

def folder():
    return SqliteVendor("default").path.parent
"""


def run_with_child(code):
    return subprocess.run(
        [sys.executable, "-c", CHILD + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()


def test_a_worker_of_multiprocessing_removes_its_temporary_file():
    exit_code, path = run_with_child(
        """
        context = multiprocessing.get_context("fork")
        queue = context.SimpleQueue()
        worker = context.Process(target=lambda: queue.put(folder()))
        worker.start()
        path = queue.get()
        worker.join()
        print(worker.exitcode, path)
        """
    )

    assert exit_code == "0"
    assert not Path(path).exists()


def test_a_child_that_ends_leaves_the_temporary_file_of_its_parent():
    remains, path = run_with_child(
        """
        path = folder()
        if (pid := os.fork()) == 0:
            sys.exit()
        os.waitpid(pid, 0)
        print(path.exists(), path)
        """
    )

    assert remains == "True"
    assert not Path(path).exists()
