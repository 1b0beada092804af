"""Writes the demo out as an ordinary Django project, to be changed and taken from."""

from __future__ import annotations

import shutil
from pathlib import Path

from tiderace import __version__

_DEMO = Path(__file__).parent
# The package of the project.
_NAME = "demo"
# What starts the demo without a project, and what becomes a file beside the package.
_LEFT_OUT = ("eject.py", "serve.py", "valkey.py", "manage.py", "__pycache__", "*.pyc")
_CHANGES = {
    "python -m tiderace.demo.manage": "python manage.py",
    "python -m tiderace demo": "python manage.py runserver",
    "src/tiderace/demo": _NAME,
    "tiderace.demo": _NAME,
    "TIDERACE_DEMO_": "DEMO_",
}
_REQUIREMENTS = f"tiderace[demo]=={__version__}\n"
_README = f"""# The demo of Tiderace {__version__}

An ordinary Django project: each folder of `{_NAME}` with a `urls.py` is an app.

```bash
python -m venv .venv
. .venv/bin/activate
python -m pip install -r requirements.txt
python manage.py migrate
python manage.py seed
python manage.py runserver
```

Open http://127.0.0.1:8000/ in two windows, and log in as two people.
The users and their passwords are in `{_NAME}/people/person.py`.

| | |
| --- | --- |
| the simulated devices | `python manage.py simulate`, in another terminal |
| a notification from a terminal | `python manage.py notify "Lunch is ready" --user bob` |
| Django's debug pages | `DEMO_DEBUG=1` |
| other host names | `DEMO_HOSTS=one.example,two.example` |
| several processes over a SQLite file | `DEMO_LAYER=database` |
| several processes over Redis | `DEMO_REDIS=redis://127.0.0.1:6379/0`, with `python -m pip install "tiderace[redis]"` |

The libraries in `{_NAME}/static/vendor` have their licences beside them.
"""


class Occupied(Exception):
    """The folder has files already."""


def eject(target: Path) -> None:
    """Write the project into ``target``, a folder that is new or empty.

    Raises:
        Occupied: when there is something in it; nothing is written.
        OSError: when it cannot be written.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise Occupied(
            f"{target} exists and is not an empty folder; name one that is new"
        )
    shutil.copytree(_DEMO, target / _NAME, ignore=shutil.ignore_patterns(*_LEFT_OUT))
    shutil.copy(_DEMO / "manage.py", target / "manage.py")
    for path in target.rglob("*"):
        if path.suffix in (".py", ".html") and path.is_file():
            text = path.read_text(encoding="utf-8")
            for old, new in _CHANGES.items():
                text = text.replace(old, new)
            path.write_text(text, encoding="utf-8")
    (target / "README.md").write_text(_README, encoding="utf-8")
    (target / "requirements.txt").write_text(_REQUIREMENTS, encoding="utf-8")
