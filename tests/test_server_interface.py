"""An application that the server cannot serve is reported from the command line."""

from __future__ import annotations

import pytest
from django.apps import apps

from tiderace.checks.server_interface import interface_problem

ASGI, WSGI = "mysite.asgi:application", "mysite.wsgi:application"
SYNC = ("gunicorn.workers.base", "gunicorn.workers.sync")
UVICORN = ("gunicorn.workers.base", "uvicorn_worker")


@pytest.fixture(autouse=True)
def _applications(settings):
    settings.ASGI_APPLICATION = "mysite.asgi.application"
    settings.WSGI_APPLICATION = "mysite.wsgi.application"


def problem(command, modules=(), **environment):
    return interface_problem(command.split(), modules, environment)


@pytest.mark.parametrize(
    ("command", "modules", "write"),
    [
        (f"/usr/bin/uvicorn --port 80 {WSGI}", (), f"write: uvicorn {ASGI}"),
        (f"/lib/uvicorn/__main__.py {WSGI}", (), f"write: uvicorn {ASGI}"),
        (f"daphne -p 80 {WSGI}", (), f"write: daphne {ASGI}"),
        (f"gunicorn -b 127.0.0.1:80 {ASGI}", SYNC, f"UvicornWorker {ASGI}"),
        (f"gunicorn {ASGI}", ("gunicorn.workers.gthread",), f"uvicorn {ASGI}"),
        (f"waitress-serve --port=80 {ASGI}", (), f"uvicorn {ASGI}"),
        (f"granian {ASGI}", (), f"write: granian --interface asgi {ASGI}"),
        (f"granian --interface rsgi {ASGI}", (), "--interface asgi"),
    ],
)
def test_a_server_of_the_other_interface_is_reported_with_the_command(
    command, modules, write
):
    text = problem(command, modules)

    assert text is not None
    assert write in text
    assert "mysite." in text.partition("write:")[0]


@pytest.mark.parametrize(
    ("command", "modules"),
    [
        (f"uvicorn {ASGI}", ()),
        (f"uvicorn --interface wsgi {WSGI}", ()),
        (f"uvicorn --interface=wsgi {WSGI}", ()),
        (f"hypercorn {WSGI}", ()),
        (f"gunicorn {WSGI}", SYNC),
        (f"gunicorn -k tiderace.server.gunicorn.UvicornWorker {ASGI}", UVICORN),
        (f"granian --interface asgi {ASGI}", ()),
        (f"granian --interface=asginl {ASGI}", ()),
        (f"granian --interface wsgi {WSGI}", ()),
        ("uvicorn other.wsgi:application", ()),
        ("manage.py runserver 127.0.0.1:80", ()),
        ("", ()),
    ],
)
def test_a_server_with_its_application_is_not_reported(command, modules):
    assert problem(command, modules) is None


def test_granian_may_get_its_interface_from_the_environment():
    assert problem(f"granian {ASGI}", GRANIAN_INTERFACE="asgi") is None


def test_the_asgi_application_is_guessed_where_the_setting_is_missing(settings):
    settings.ASGI_APPLICATION = None

    assert f"write: uvicorn {ASGI}" in str(problem(f"uvicorn {WSGI}"))


def test_the_app_logs_the_problem_when_it_starts(monkeypatch, caplog):
    monkeypatch.setattr("sys.argv", ["uvicorn", WSGI])

    apps.get_app_config("tiderace").ready()

    [record] = caplog.records
    assert record.name == "tiderace.server"
    assert "uvicorn is an ASGI server" in record.getMessage()
