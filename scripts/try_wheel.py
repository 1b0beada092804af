"""Try the installed package in a new project, as a first user does.

Run in an empty folder by a Python that has ``tiderace[server]`` and Celery: a stock project
on SQLite gets two settings and a topic, and is served by two processes. The clients of
both receive what the shell, a Celery worker and each of the processes publish.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
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
    "mysite/urls.py": """
from django.http import HttpResponse
from django.urls import path

from tiderace.topics import publish


def say(request, text):
    publish("news", {"text": text})
    return HttpResponse()


urlpatterns = [path("say/<str:text>/", say)]
""",
    # Celery's own broker in a folder.
    "mysite/tasks.py": """
import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")
app = Celery("mysite", broker="filesystem://")
folders = {"data_folder_in": "tasks", "data_folder_out": "tasks", "control_folder": "tasks"}
app.conf.broker_transport_options = folders


@app.task
def say(text):
    from tiderace.topics import publish

    publish("news", {"text": text})
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
PUBLISH = "from tiderace.topics import publish; publish('news', {'text': 'the shell'})"
DELAY = "from mysite.tasks import say; say.delay('a task')"


def main() -> None:
    """Write the project, serve it twice, publish, and check that all arrives."""
    run("-m", "django", "startproject", "mysite", ".")
    for name, text in FILES.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(text, "utf-8")
    with Path("mysite/settings.py").open("a", encoding="utf-8") as file:
        file.write(SETTINGS)
    Path("tasks").mkdir()
    run("manage.py", "check", "--fail-level", "WARNING")
    run("manage.py", "migrate", "--verbosity", "0")
    run("-m", "tiderace", "migrate", ".")
    ports = free_ports(2)
    uvicorn = ("uvicorn", "mysite.asgi:application", "--log-level", "warning")
    worker = ("celery", "-A", "mysite.tasks", "worker", "--loglevel", "warning")
    with (
        # With its reloader, as a developer starts it.
        running("manage.py", "runserver", str(ports[0])),
        running("-m", *uvicorn, "--port", str(ports[1])),
        running("-m", *worker, "--concurrency", "2", "--without-mingle"),
        subscribed(ports[0]) as first,
        subscribed(ports[1]) as second,
    ):
        for port, name in zip(ports, ("runserver", "uvicorn"), strict=True):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/say/{name}/", timeout=20)
        run("manage.py", "shell", "-c", PUBLISH)
        run("-c", DELAY)
        for client in (first, second):
            wait_for({"runserver", "uvicorn", "the shell", "a task"}, client)
    print("the package works")


def run(*arguments: str) -> None:
    """Run Python with these arguments; an error ends the script."""
    subprocess.run([sys.executable, *arguments], check=True)


@contextlib.contextmanager
def running(*arguments: str) -> Iterator[None]:
    """Run Python with these arguments until the end of the block."""
    with subprocess.Popen([sys.executable, *arguments]) as process:
        try:
            yield
            if process.poll() is not None:
                raise SystemExit(f"{' '.join(arguments)} ended by itself")
        finally:
            process.terminate()


def free_ports(count: int) -> list[int]:
    """Return ports that nothing listens on."""
    with contextlib.ExitStack() as probes:
        found = [probes.enter_context(socket.socket()) for _ in range(count)]
        for probe in found:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in found]


@contextlib.contextmanager
def subscribed(port: int) -> Iterator[ClientConnection]:
    """Yield a client of the server at a port that is subscribed to the topic."""
    with opened(port) as client:
        commands = (
            {"id": 1, "connect": {}},
            {"id": 2, "subscribe": {"channel": "news"}},
        )
        client.send("\n".join(json.dumps(command) for command in commands))
        replies = 0
        while replies < len(commands):
            replies += len(str(client.recv(timeout=20)).splitlines())
        yield client


def opened(port: int) -> ClientConnection:
    """Return a connection to the server once it listens."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return connect(
                f"ws://127.0.0.1:{port}/connection/websocket",
                origin=Origin(f"http://127.0.0.1:{port}"),
            )
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def wait_for(texts: set[str], client: ClientConnection) -> None:
    """Read the client's messages until each of ``texts`` was in one."""
    while texts:
        message = str(client.recv(timeout=30))
        texts = {text for text in texts if text not in message}


if __name__ == "__main__":
    main()
