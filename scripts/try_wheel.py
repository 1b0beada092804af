"""Try the installed package in a new project, as a first user does.

Run in an empty folder by a Python that has ``tiderace[server]``: a stock project gets two
settings and a topic; a page's client receives what another process publishes.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin

FILES = {
    "mysite/asgi.py": """
from django.urls import path

from tiderace.routing import get_application
from tiderace.topics import TopicsEndpoint

application = get_application(
    [path("connection/", TopicsEndpoint.as_asgi())], settings="mysite.settings"
)
""",
    "news/__init__.py": "",
    "news/topics.py": """
from tiderace.topics import AllowAny, Topic


class News(Topic):
    pattern = "news"
    permission_classes = [AllowAny]
""",
}
SETTINGS = """
INSTALLED_APPS = ["tiderace", "news", *INSTALLED_APPS]
ASGI_APPLICATION = "mysite.asgi.application"
CHANNEL_LAYERS = {
    "default": {"BACKEND": "tiderace.layers.database.DatabaseChannelLayer"},
}
"""


def main() -> None:
    """Write the project, serve it, publish, and check that the message arrives."""
    run("-m", "django", "startproject", "mysite", ".")
    for name, text in FILES.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(text, "utf-8")
    with Path("mysite/settings.py").open("a", encoding="utf-8") as file:
        file.write(SETTINGS)
    run("manage.py", "check", "--fail-level", "WARNING")
    run("manage.py", "migrate", "--verbosity", "0")
    run("-m", "tiderace", "migrate", ".")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "manage.py", "runserver", "--noreload", str(port)]
    with subprocess.Popen(command) as server:
        try:
            receive_what_is_published(port, server)
        finally:
            server.terminate()
    print("the package works")


def run(*arguments: str) -> None:
    """Run Python with these arguments; an error ends the script."""
    subprocess.run([sys.executable, *arguments], check=True)


def receive_what_is_published(port: int, server: subprocess.Popen[bytes]) -> None:
    """Subscribe as a page, publish from another process, and wait for the message."""
    with opened(port, server) as client:
        commands = (
            {"id": 1, "connect": {}},
            {"id": 2, "subscribe": {"channel": "news"}},
        )
        client.send("\n".join(json.dumps(command) for command in commands))
        replies = 0
        while replies < len(commands):
            replies += len(str(client.recv(timeout=20)).splitlines())
        run("manage.py", "tiderace_publish", "news", '{"text": "hello"}')
        while "hello" not in str(client.recv(timeout=20)):
            pass


def opened(port: int, server: subprocess.Popen[bytes]) -> ClientConnection:
    """Return a connection to the server once it listens."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return connect(
                f"ws://127.0.0.1:{port}/connection/websocket",
                origin=Origin(f"http://127.0.0.1:{port}"),
            )
        except OSError:
            if server.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.1)


if __name__ == "__main__":
    main()
