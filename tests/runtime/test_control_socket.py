"""The control socket of a process, and ``manage.py tiderace_drain``, which uses it."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.test import override_settings
from websockets.asyncio.client import connect

from support.servers.drain_server import end_of
from support.waiting import until
from tiderace.runtime.connections import ConnectionRegistry
from tiderace.runtime.control_socket import (
    ControlSocket,
    ask_to_drain,
    control_sockets,
    make_private,
    run_directory,
)
from tiderace.runtime.drain import Drain


@pytest.fixture
def run_dir(tmp_path):
    """A folder for control_sockets, as the settings name it."""
    settings = {"RUN_DIR": str(tmp_path / "run"), "DRAIN_SECONDS": 0}
    with override_settings(TIDERACE=settings):
        yield tmp_path / "run"


@pytest.fixture
def connections():
    """The connections that the drain ends."""
    return ConnectionRegistry()


@pytest.fixture
async def drain(run_dir, connections):
    """Open a control socket for a drain of the test's own; return the drain."""
    drain = Drain(connections)
    mine = ControlSocket(drain)
    await mine.open()
    yield drain
    await mine.close()


class Busy:
    """A connection that ends when the test says so."""

    def __init__(self):
        self.asked = False

    def drain(self, notice):
        self.asked = True

    def cut(self):
        raise AssertionError("it was cut")


async def test_a_drain_request_is_answered_with_progress(drain, connections):
    busy, heard = Busy(), []
    connections.add(busy)
    asking = asyncio.ensure_future(ask_to_drain(control_sockets()[0], heard.append))

    await until(lambda: busy.asked)
    assert drain.draining
    connections.discard(busy)

    assert await asking == 0
    assert heard == [1]


async def test_only_this_user_can_connect(drain, run_dir):
    assert run_dir.stat().st_mode & 0o777 == 0o700


async def test_the_socket_is_closed_to_other_users_whatever_the_umask(run_dir):
    run_dir.mkdir(mode=0o755)  # as systemd makes a RuntimeDirectory
    before = os.umask(0)
    control = ControlSocket(Drain(ConnectionRegistry()))
    try:
        await control.open()
        [path] = control_sockets()

        assert path.stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)
        await control.close()


async def test_the_socket_is_removed_with_the_server(run_dir):
    mine = ControlSocket(Drain(ConnectionRegistry()))
    await mine.open()
    assert [path.stem for path in control_sockets()] == [str(os.getpid())]

    await mine.close()

    assert control_sockets() == []


def test_a_socket_that_its_server_left_open_is_opened_again(run_dir):
    drain = Drain(ConnectionRegistry())
    mine = ControlSocket(drain)

    async def serve():
        await mine.open()

    async def serve_again():
        await mine.open()
        answer = await ask_to_drain(control_sockets()[0], print)
        await mine.close()
        return answer

    asyncio.run(serve())

    assert asyncio.run(serve_again()) == 0
    assert control_sockets() == []


async def test_a_socket_without_a_process_is_removed(run_dir):
    run_dir.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(run_dir / "4711.sock"))

    assert await ask_to_drain(control_sockets()[0], print) is None
    assert control_sockets() == []


async def test_a_folder_that_others_may_write_to_is_not_trusted(run_dir, caplog):
    run_dir.mkdir()
    run_dir.chmod(0o777)

    with caplog.at_level("INFO", "tiderace.control"):
        await ControlSocket(Drain(ConnectionRegistry())).open()

    assert control_sockets() == []
    assert "not a folder of this user alone" in caplog.text


async def test_a_link_to_a_folder_is_not_trusted(run_dir, tmp_path):
    (tmp_path / "theirs").mkdir(mode=0o700)
    run_dir.symlink_to(tmp_path / "theirs")

    await ControlSocket(Drain(ConnectionRegistry())).open()

    assert control_sockets() == []


async def test_a_path_that_is_too_long_for_a_socket_is_no_error(tmp_path, caplog):
    settings = {"RUN_DIR": str(tmp_path / ("r" * 100))}
    with override_settings(TIDERACE=settings):
        with caplog.at_level("INFO", "tiderace.control"):
            await ControlSocket(Drain(ConnectionRegistry())).open()

        assert control_sockets() == []
    assert "too long" in caplog.text


async def test_an_unknown_command_has_no_effect(drain):
    reader, writer = await asyncio.open_unix_connection(control_sockets()[0])
    writer.write(b"stop\n")

    assert await reader.read() == b""
    assert not drain.draining
    writer.close()


async def test_a_drain_goes_on_when_its_client_has_left(drain, connections):
    busy = Busy()
    connections.add(busy)
    _, writer = await asyncio.open_unix_connection(control_sockets()[0])
    writer.write(b"drain\n")
    await until(lambda: busy.asked)

    writer.close()
    connections.discard(busy)
    await drain.begin(0, 0)

    assert drain.open == 0


def test_without_a_setting_the_folder_is_this_projects_and_users():
    with override_settings(TIDERACE={}, SECRET_KEY="one"):
        mine = run_directory()
    with override_settings(TIDERACE={}, SECRET_KEY="two"):
        other = run_directory()

    assert str(os.geteuid()) in mine.name
    assert mine != other


# The command.


def test_the_folder_is_the_users_where_a_system_has_no_user_ids(monkeypatch, tmp_path):
    """Windows is such a system; a folder's mode has no meaning there either."""
    monkeypatch.delattr(os, "geteuid")
    monkeypatch.setenv("LOGNAME", "sara")

    assert "-sara-" in run_directory().name
    make_private(tmp_path / "run")


def test_the_command_needs_unix_sockets(monkeypatch):
    monkeypatch.delattr(asyncio, "open_unix_connection")

    with pytest.raises(CommandError, match="this system does not have"):
        call_command("tiderace_drain")


def test_the_command_fails_where_there_is_no_process(run_dir):
    with pytest.raises(CommandError, match="no process of this project was found in"):
        call_command("tiderace_drain")


def in_a_process(script, run_dir):
    """Run ``script`` in a process of its own."""
    source = f"""
import asyncio, sys
from django.conf import settings
settings.configure(TIDERACE={{"RUN_DIR": {str(run_dir)!r}, "DRAIN_SECONDS": 0}})
from tiderace.runtime.control_socket import ControlSocket
from tiderace.runtime.connections import ConnectionRegistry
from tiderace.runtime.drain import Drain
class Busy:
    def drain(self, notice): pass
    def cut(self): pass
async def main():
    connections = ConnectionRegistry()
    drain = Drain(connections)
    await ControlSocket(drain).open()
    print("open", flush=True)
    {script}
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
asyncio.run(main())
"""
    process = subprocess.Popen(
        [sys.executable, "-c", source],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "open\n"
    return process


def test_the_command_waits_for_every_process(run_dir):
    said = StringIO()
    processes = [in_a_process("", run_dir) for _ in range(2)]

    call_command("tiderace_drain", stdout=said)

    assert "2 processes have drained" in said.getvalue()
    for process in processes:
        process.communicate("")


def test_the_command_fails_when_connections_are_left(run_dir):
    said = StringIO()
    process = in_a_process("connections.add(Busy())", run_dir)

    with pytest.raises(CommandError, match=r"1 connection is left after 0\.3 s"):
        call_command("tiderace_drain", "--timeout", "0.3", stdout=said)

    assert f"process {process.pid}: 1 connection\n" in said.getvalue()
    process.communicate("")


@pytest.mark.servers
@pytest.mark.parametrize("server", ["uvicorn", "hypercorn", "granian"])
async def test_a_server_is_drained_by_the_command_and_goes_on(
    drain_site, tmp_path, server
):
    run_dir = tmp_path / "r"
    running = drain_site(server=server, DRAIN_SECONDS=1, RUN_DIR=str(run_dir))
    clients = [await connect(f"{running.ws}/plain/") for _ in range(10)]
    with override_settings(TIDERACE={"RUN_DIR": str(run_dir), "DRAIN_SECONDS": 1}):
        command = asyncio.create_task(asyncio.to_thread(call_command, "tiderace_drain"))

        ends = await asyncio.gather(*(end_of(client) for client in clients))
        await command

    assert {code for _, code, _ in ends} == {1012}
    assert running.process.poll() is None
