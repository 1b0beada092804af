"""The demo as a child process, the way ``make demo`` starts it, and its visitors."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import httpx
from websockets.sync.client import ClientConnection, connect

from support.paths import TESTS
from support.servers.asgi_process import AsgiProcess

PASSWORDS = {"alice": "alice-tide", "bob": "bob-tide", "carol": "carol-tide"}


class DemoProcess(AsgiProcess):
    """``with DemoProcess(folder) as demo``: it answers at ``demo.url``.

    Further arguments go to the command line.
    """

    patience = 120.0

    def __init__(self, folder: Path, *arguments: str) -> None:
        self._arguments = arguments
        super().__init__("the demo", "tiderace demo")
        self.url = self.http
        self.folder = folder
        self._env = {k: v for k, v in os.environ.items() if "DJANGO" not in k}
        self._env["TIDERACE_DEMO_DATA"] = str(folder / "demo.sqlite3")
        self._env["TIDERACE_DEMO_BOTS"] = "0"
        if "database" in arguments:
            # Management commands, which have no such argument, use the layer too.
            self._env["TIDERACE_DEMO_LAYER"] = "database"

    def _line(self, application: str) -> list[str]:
        command = (sys.executable, "-m", *application.split())
        return [*command, "--port", str(self.port), *self._arguments]

    def _listens(self) -> bool:
        if not super()._listens():
            return False
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/login/").status_code == 200
        return False

    def interrupt(self, *, timeout: float = 15) -> int:
        """Press Ctrl+C and return the exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=timeout)

    def manage(
        self, *arguments: str, settings: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a management command on the demo's data, in another process."""
        env = dict(self._env)
        if settings:
            env |= {
                "DJANGO_SETTINGS_MODULE": settings,
                "PYTHONPATH": str(TESTS),
            }
        return subprocess.run(
            [sys.executable, "-m", "tiderace.demo.manage", *arguments],
            env=env,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=45,
            check=False,
        )

    @contextlib.contextmanager
    def running(self, *arguments: str) -> Iterator[None]:
        """Run a management command beside the demo until the end of the block."""
        command = [sys.executable, "-m", "tiderace.demo.manage", *arguments]
        with subprocess.Popen(command, env=self._env, cwd=self.folder) as process:
            try:
                yield
            finally:
                process.kill()

    def visitor(self) -> Visitor:
        """Return a visitor without cookies."""
        return Visitor(self.url)


class Visitor:
    """A browser without a screen: cookies, forms and a socket."""

    def __init__(self, url: str) -> None:
        self.http = httpx.Client(base_url=url, follow_redirects=True, timeout=15)
        self._ws = url.replace("http", "ws", 1)
        self._origin = url

    def close(self) -> None:
        self.http.close()

    def post(
        self, path: str, form_on: str | None = None, **fields: str
    ) -> httpx.Response:
        """Send the form of the page ``form_on`` (default: the same page)."""
        page = self.http.get(form_on or path).text
        found = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)
        assert found, f"no form on {form_on or path}"
        fields["csrfmiddlewaretoken"] = found[1]
        return self.http.post(path, data=fields)

    @property
    def cookies(self) -> str:
        """The value of a Cookie header."""
        return "; ".join(f"{k}={v}" for k, v in self.http.cookies.items())

    def log_in(self, name: str) -> Self:
        response = self.post("/login/", username=name, password=PASSWORDS[name])
        assert response.url.path == "/chat/", response.text
        return self

    def enter_as_guest(self, name: str) -> httpx.Response:
        return self.post("/guest/", form_on="/login/", name=name)

    @contextlib.contextmanager
    def socket(self, *, origin: str | None = None) -> Iterator[Window]:
        """Open a socket to the topics as this visitor's browser would."""
        with connect(
            f"{self._ws}/connection/websocket",
            origin=origin or self._origin,  # type: ignore[arg-type]
            additional_headers={"Cookie": self.cookies},
        ) as connection:
            yield Window(connection)

    @contextlib.contextmanager
    def topic(self, name: str) -> Iterator[Window]:
        """Open a socket and subscribe to a topic."""
        with self.socket() as window:
            assert "connect" in window.ask(connect={})
            reply = window.ask(subscribe={"channel": name})
            assert "subscribe" in reply, reply
            window.topic = name
            yield window

    def room(self, slug: str) -> contextlib.AbstractContextManager[Window]:
        """Open a socket and enter a room of the chat."""
        return self.topic(f"chat:{slug}")


class Window:
    """A client of the topics that can skip frames."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.client = ""
        self.topic = ""
        self._frames: list[dict[str, Any]] = []
        self._publications: list[Any] = []
        self._asked = 0

    def next(self) -> dict[str, Any]:
        """Return the next frame; pings are answered."""
        while not self._frames:
            text = self.connection.recv(timeout=15)
            assert isinstance(text, str)
            for line in text.splitlines():
                if (frame := json.loads(line)) == {}:
                    self.connection.send("{}")
                else:
                    self._frames.append(frame)
        return self._frames.pop(0)

    def ask(self, **command: Any) -> dict[str, Any]:
        """Send a command and return its reply; publications are kept."""
        self._asked += 1
        self.connection.send(json.dumps({"id": self._asked, **command}))
        while (frame := self.next()).get("id") != self._asked:
            self._keep(frame)
        return frame

    def publish(self, data: Any) -> dict[str, Any]:
        return self.ask(publish={"channel": self.topic, "data": data})

    def call(self, method: str, **arguments: Any) -> dict[str, Any]:
        call = {"channel": self.topic, "method": method, "data": arguments}
        return self.ask(rpc={"method": "$call", "data": call})

    def say(self, text: str, client_id: str) -> dict[str, Any]:
        return self.publish({"client_id": client_id, "text": text})

    def publication(self) -> Any:
        """Return the data of the next publication."""
        while not self._publications:
            self._keep(self.next())
        return self._publications.pop(0)

    def until_closed(self) -> None:
        """Read frames until the server closes, which raises ``ConnectionClosed``."""
        while True:
            self._keep(self.next())

    def _keep(self, frame: dict[str, Any]) -> None:
        publication = frame.get("push", {}).get("pub")
        if publication:
            self._publications.append(publication["data"])
