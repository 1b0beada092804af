"""Sites of several processes over a SQLite file: commands, servers and test runners."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys

import pytest
from websockets.exceptions import ConnectionClosed

from support.demo_process import DemoProcess
from support.paths import ROOT
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
    codes = set()
    for window in in_both:
        with pytest.raises(ConnectionClosed) as closed:
            window.until_closed()
        codes.add(closed.value.rcvd.code)
    assert codes == {3001}
