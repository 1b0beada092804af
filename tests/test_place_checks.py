"""The system checks of consumers and topics in a place where they have no effect."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest
from django.test import override_settings
from django.urls import include, path

from tiderace.checks import places as checks
from tiderace.consumer import AsyncConsumer
from tiderace.topics import TopicsEndpoint

TOPICS = (
    "from tiderace.topics import Topic\n\n\nclass Room(Topic):\n    pattern = 'room'\n"
)


class Chat(AsyncConsumer):
    pass


def page(request):
    raise NotImplementedError


class Urls:
    """A URL configuration, in place of a module."""

    def __init__(self, *patterns):
        self.urlpatterns = list(patterns)


@pytest.mark.parametrize(
    ("pattern", "route", "name"),
    [
        (path("ws/chat/", Chat.as_asgi()), "ws/chat/", "Chat"),
        (
            path("live/", include([path("connection/", TopicsEndpoint.as_asgi())])),
            "live/connection/",
            "TopicsEndpoint",
        ),
    ],
)
def test_a_consumer_or_endpoint_among_djangos_urls_is_an_error(pattern, route, name):
    with override_settings(ROOT_URLCONF=Urls(path("", page), pattern)):
        [error] = checks.check_url_patterns(None)

    assert error.id == "tiderace.E036"
    assert f"The URL pattern {route!r} has {name}.as_asgi()" in error.msg
    assert "asgi.py" in error.hint


def test_pages_among_djangos_urls_are_accepted():
    with override_settings(ROOT_URLCONF=Urls(path("", page))):
        assert checks.check_url_patterns(None) == []


@pytest.mark.parametrize("urls", [None, "no.such.module"])
def test_urls_that_cannot_be_imported_are_left_to_djangos_check(urls):
    with override_settings(ROOT_URLCONF=urls):
        assert checks.check_url_patterns(None) == []


@pytest.fixture
def site(tmp_path, monkeypatch):
    """The folder of a project, whose settings are in the package ``harbour``."""
    package(tmp_path / "harbour")
    monkeypatch.syspath_prepend(str(tmp_path))
    with override_settings(SETTINGS_MODULE="harbour.settings"):
        yield tmp_path


def package(folder, topics=None, name="topics.py"):
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    if topics is not None:
        (folder / name).write_text(topics, "utf-8")


@pytest.mark.parametrize("name", ["news", "apps.news"])
def test_the_topics_of_a_package_that_is_no_app_are_a_warning(site, name):
    package(site.joinpath(*name.split(".")), TOPICS)

    [warning] = checks.check_topics_modules(None)

    assert warning.id == "tiderace.W037"
    assert f"{name!r} is no app in INSTALLED_APPS" in warning.msg
    assert f'List "{name}" there' in warning.hint


@pytest.mark.parametrize("name", ["topic.py", "Topics.py", "topcis.py"])
def test_the_topics_of_an_app_in_a_module_of_a_similar_name_are_a_warning(
    site, monkeypatch, name
):
    package(site / "news", TOPICS, name)
    monkeypatch.setattr(
        checks.apps, "get_app_configs", lambda: [SimpleNamespace(name="news")]
    )

    [warning] = checks.check_topics_modules(None)

    assert f"{name} declares topics and is not imported: only modules" in warning.msg
    assert "Rename it to topics.py" in warning.hint


def test_topics_in_a_module_of_another_name_are_accepted(site):
    package(site / "news", TOPICS, "tests.py")

    assert checks.check_topics_modules(None) == []


def test_topics_that_are_imported_are_accepted(site, monkeypatch):
    package(site / "news", TOPICS)
    module = ModuleType("news.topics")
    module.__file__ = str(site / "news" / "topics.py")
    monkeypatch.setitem(sys.modules, "news.topics", module)

    assert checks.check_topics_modules(None) == []


@pytest.mark.parametrize(
    "text", ["NAMES = ['news']\n", "from kafka import Topic\n\n\nclass A(Topic): ...\n"]
)
def test_a_module_of_that_name_without_topics_is_accepted(site, text):
    package(site / "news", text)

    assert checks.check_topics_modules(None) == []


def test_a_folder_that_is_no_package_is_accepted(site):
    package(site / "news", TOPICS)
    (site / "news" / "__init__.py").unlink()

    assert checks.check_topics_modules(None) == []


@pytest.mark.parametrize("module", ["", None, "no_such_package.settings"])
def test_settings_without_a_module_have_no_folder(module):
    with override_settings(SETTINGS_MODULE=module):
        assert checks.check_topics_modules(None) == []
