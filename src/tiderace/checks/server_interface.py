"""Whether the server was started with the application that it can serve.

An ASGI application under a WSGI server, or the reverse, answers every request with Python's
error about missing arguments. The command line shows the mistake before the first request.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from django.conf import settings

_ASGI_ALONE = ("uvicorn", "daphne")
_WSGI_ALONE = ("waitress-serve", "mod_wsgi-express", "uwsgi")
# gunicorn loads the module of the worker class that it was given, sync by default.
_WSGI_WORKERS = ("sync", "gthread", "ggevent", "geventlet", "gtornado")


def interface_problem(
    command: Sequence[str], modules: Collection[str], environment: Mapping[str, str]
) -> str | None:
    """Return what is wrong between the server and the application, and what to write.

    Args:
        command: the command line of the process.
        modules: the names of the modules that are loaded.
        environment: the environment variables of the process.
    """
    program = Path(command[0]) if command else Path()
    server = program.parent.name if program.stem == "__main__" else program.stem
    asgi, wsgi = _target("ASGI_APPLICATION"), _target("WSGI_APPLICATION")
    target = next((each for each in command[1:] if each in (asgi, wsgi)), "")
    if not target:
        return None
    options = " ".join(command[1:])
    interface = environment.get("GRANIAN_INTERFACE", "")
    if found := re.search(r"--interface[ =](\w+)", options):
        interface = found[1].lower()
    if server == "granian" and target == asgi and not interface.startswith("asgi"):
        return (
            f"granian serves {target} by its own interface, which no Django application "
            f"has; write: granian --interface asgi {target}"
        )
    if server in _ASGI_ALONE and target == wsgi and interface != "wsgi":
        return (
            f"{server} is an ASGI server, and {target} is a WSGI application; write: "
            f"{server} {target.replace('wsgi', 'asgi') if asgi == ':' else asgi}"
        )
    workers = {f"gunicorn.workers.{name}" for name in _WSGI_WORKERS}
    under_wsgi = server in _WSGI_ALONE or (
        server == "gunicorn" and not workers.isdisjoint(modules)
    )
    if under_wsgi and target == asgi:
        return (
            f"{server} calls {target} as a WSGI application, and it is an ASGI one; "
            f"write: gunicorn -k tiderace.server.gunicorn.UvicornWorker {target}, or: "
            f"uvicorn {target}"
        )
    return None


def _target(setting: str) -> str:
    module, _, name = str(getattr(settings, setting, None) or "").rpartition(".")
    return f"{module}:{name}"
