"""A project into which the pages of the documentation are typed as a reader types them."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.error import URLError
from urllib.request import urlopen

from support.pages.blocks import Block, blocks_in
from support.servers.ports import free_port
from support.waiting import wait_until

__all__ = ["PASSWORD", "TypedSite"]

PASSWORD = "a-b-c-1-2-3"
"""The password of every user that a page creates."""

# The environment of the tests has the packages; a virtual environment would have none.
_ALREADY_DONE = ("python -m venv", "python -m pip", "pip install", "source ")
_SERVERS = ("python manage.py runserver", "uvicorn ")
# Commands whose results a page ends with.
_RESULTS = ("python manage.py shell", "python manage.py test", "python -m pytest")
_PORT = 8000


class TypedSite:
    """``with TypedSite(folder) as site``: an empty folder, whose servers end with the block.

    Args:
        folder: an empty folder, which becomes the reader's project.
        replaced: texts of the pages and what is typed instead, as the address of a
            broker.
    """

    def __init__(self, folder: Path, replaced: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self._replaced = replaced or {}
        outer = {
            k: v
            for k, v in os.environ.items()
            if not k.startswith(("DJANGO_", "PYTEST_"))
        }
        programs = str(Path(sys.executable).parent)
        self.env = {
            **outer,
            "PATH": f"{programs}{os.pathsep}{outer['PATH']}",
            "DJANGO_SUPERUSER_PASSWORD": PASSWORD,
        }
        self._servers: dict[int, subprocess.Popen[bytes]] = {}
        self._ports: dict[int, int] = {}
        self._logs = tempfile.TemporaryDirectory()
        self._steps: Iterator[Block | str] = iter(())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for port in list(self._servers):
            if error is not None:
                print(f"the server at {port}:\n{self.log(port)}")
            self.stop(port)
        self._logs.cleanup()

    def start_project(self, *apps: str) -> None:
        """Do what ``django-admin startproject`` and ``manage.py startapp`` do."""
        self.run("django-admin startproject mysite .")
        for app in apps:
            self.run(f"python manage.py startapp {app}")

    def read(self, page: str) -> None:
        """Take a page, given by its path, of which nothing has been typed yet."""
        self._steps = self._steps_of(page)

    def _steps_of(self, page: str) -> Iterator[Block | str]:
        for block in blocks_in(page):
            if block.file:
                yield block
            elif block.language == "bash" and not block.exempt:
                yield from block.code.replace("\\\n", "").splitlines()

    def type_until(self, word: str) -> str:
        """Type the page up to the next command that contains ``word``; return its output."""
        for step in self._steps:
            output = self._type(step)
            if isinstance(step, str) and word in step:
                return output
        raise AssertionError(f"the rest of the page has no command with {word!r}")

    def type_rest(self) -> None:
        """Type the rest of the page."""
        for step in self._steps:
            self._type(step)

    def type_files(self) -> None:
        """Type the files in the rest of the page, and none of its commands."""
        for step in self._steps:
            if isinstance(step, Block):
                self._type(step)

    def add_settings(self, code: str) -> None:
        """Add lines to the end of the settings."""
        with (self.folder / "mysite/settings.py").open("a") as file:
            file.write(code)

    def type_preparations(self) -> None:
        """Type the rest of the page without its servers, publications and tests."""
        for step in self._steps:
            if isinstance(step, Block) or not step.startswith((*_SERVERS, *_RESULTS)):
                self._type(step)

    def _type(self, step: Block | str) -> str:
        if isinstance(step, Block):
            self.write(step)
            return ""
        command = step
        if command.startswith(_ALREADY_DONE):
            return ""
        if command.startswith(_SERVERS):
            self.serve(command)
            return ""
        return self.run(command)

    def write(self, block: Block) -> None:
        """Write a block that is a file; settings are added to the end of those there are."""
        code = block.code
        for documented, actual in self._replaced.items():
            code = code.replace(documented, actual)
        path = self.folder / block.file
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a" if path.name == "settings.py" else "w") as file:
            file.write(f"\n{code}" if path.name == "settings.py" else code)

    def run(self, command: str) -> str:
        """Run a command in the project's folder and return its output.

        Variables that it exports are set for all later commands and servers.
        """
        if " createsuperuser" in command:
            command += " --noinput"
        exports = command.startswith("export ")
        done = subprocess.run(
            ["bash", "-c", f"{command} && env -0" if exports else command],
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        if exports:
            variables = filter(None, done.stdout.split("\0"))
            self.env = dict(each.split("=", 1) for each in variables)
        return done.stdout + done.stderr

    def serve(self, command: str) -> None:
        """Start a server with a command of the page, on a free port; return when it answers.

        A server that runs on the same port of the page is stopped before.
        """
        named = re.search(r"--port (\d+)", command)
        port = int(named[1]) if named else _PORT
        self.stop(port)
        actual = self._ports.setdefault(port, free_port())
        words = shlex.split(command)
        if named:
            words[words.index("--port") + 1] = str(actual)
        else:
            words += ["--noreload", str(actual)]
        program = shutil.which(words[0], path=self.env["PATH"])
        assert program, f"no program {words[0]}"
        with self._log_path(port).open("ab") as log:
            server = subprocess.Popen(
                [program, *words[1:]],
                cwd=self.folder,
                env={**self.env, "PYTHONUNBUFFERED": "1"},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._servers[port] = server

        def answers() -> bool:
            assert server.poll() is None, f"{command}\n{self.log(port)}"
            with urlopen(f"{self.url(port)}/static/tiderace/tiderace.js") as answer:
                return bool(answer.status == 200)

        try:
            wait_until(answers, ignored=URLError, what=command)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log(port)}") from None

    def stop(self, port: int = _PORT) -> None:
        """Press Ctrl-C in the terminal of a server, if one runs there."""
        server = self._servers.pop(port, None)
        if server is None:
            return
        server.send_signal(signal.SIGINT)
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
            raise

    def kill(self, port: int = _PORT) -> None:
        """Kill a server, which has no time to say anything to its clients."""
        server = self._servers.pop(port)
        server.kill()
        server.wait()

    def url(self, port: int = _PORT) -> str:
        """Return the address of a server, given by its port in the page."""
        return f"http://localhost:{self._ports[port]}"

    def log(self, port: int = _PORT) -> str:
        """Return what the servers at a port of the page have written so far."""
        path = self._log_path(port)
        return path.read_text() if path.exists() else ""

    def _log_path(self, port: int) -> Path:
        return Path(self._logs.name) / str(port)
