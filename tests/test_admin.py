"""The page of Django's admin: who is connected, who may see and do what, what is noted."""

from __future__ import annotations

import asyncio
import logging
import threading
import time

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser, Permission
from django.core.management import call_command
from django.test import override_settings
from django.urls import include, path

from tiderace import bridge
from tiderace.drain import process_drain
from tiderace.generic.websocket import AsyncJsonWebsocketConsumer
from tiderace.layers import channel_layers, get_channel_layer
from tiderace.monitoring.recent import recent_records
from tiderace.testing import WebsocketCommunicator
from tiderace.topics import History, Topic, TopicsEndpoint
from tiderace.topics.topic import declared
from topic_client import TopicClient

SITE = {
    "INSTALLED_APPS": [
        "django.contrib.admin",
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.sessions",
        "django.contrib.messages",
        "django.contrib.staticfiles",
        "tiderace",
    ],
    "MIDDLEWARE": [
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
    ],
    "TEMPLATES": [
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "APP_DIRS": True,
            "OPTIONS": {
                "context_processors": [
                    "django.template.context_processors.request",
                    "django.contrib.auth.context_processors.auth",
                    "django.contrib.messages.context_processors.messages",
                ]
            },
        }
    ],
    "ROOT_URLCONF": "test_admin",
    "STATIC_URL": "/static/",
    "PASSWORD_HASHERS": ["django.contrib.auth.hashers.MD5PasswordHasher"],
}

PAGE = "/admin/tiderace/connections/"


def admin_urls():
    from django.contrib import admin

    return admin.site.urls


urlpatterns = []


@pytest.fixture(scope="module")
def site(django_db_setup, django_db_blocker):
    """A project with Django's admin, and the tables of that."""
    with override_settings(**SITE), django_db_blocker.unblock():
        call_command("migrate", verbosity=0)
        urlpatterns[:] = [path("admin/", admin_urls())]
        yield
        urlpatterns.clear()


@pytest.fixture(autouse=True)
def fresh(site, db):
    """A layer and a ring of records that no other test has used."""
    channel_layers.backends = {}
    recent_records.clear()
    bridge.close()
    yield
    channel_layers.backends = {}
    recent_records.clear()
    bridge.close()


@pytest.fixture
def boss(client):
    """A browser that is logged in as somebody who may do everything."""
    client.force_login(get_user_model().objects.create_superuser("boss"))
    return client


@pytest.fixture
def staff(client):
    """Log a browser in as somebody of the staff with these permissions."""

    def log_in(*permissions: str):
        user = get_user_model().objects.create_user("clerk", is_staff=True)
        user.user_permissions.set(
            Permission.objects.filter(
                content_type__app_label="tiderace", codename__in=permissions
            )
        )
        client.force_login(user)
        return client

    return log_in


@pytest.fixture
def room():
    """A declared topic, undeclared after the test."""
    before = list(declared)

    class Room(Topic):
        pattern = "room:<str:name>"
        history = History(size=10)

    yield Room
    declared.remove(Room)
    assert list(declared) == before


@pytest.fixture
def connected():
    """Connect consumers' sockets and topic clients, on a loop beside the test."""
    begun = []

    def connect(thing):
        begun.append(thing)
        if isinstance(thing, TopicClient):
            bridge.call(thing.__aenter__)
        else:
            assert bridge.call(thing.connect)[0]
        return thing

    yield connect
    for thing in begun:
        bridge.call(
            thing.disconnect if hasattr(thing, "disconnect") else thing.__aexit__
        )


def socket_of(user, path="/ws/chat/", consumer=AsyncJsonWebsocketConsumer):
    communicator = WebsocketCommunicator(consumer.as_asgi(), path)
    communicator.scope["user"] = user
    return communicator


def person(name):
    return get_user_model().objects.create_user(name)


def test_a_stranger_is_sent_to_the_log_in(client):
    answer = client.get(PAGE)

    assert answer.status_code == 302
    assert answer["Location"].startswith("/admin/login/")


@pytest.mark.parametrize("page", ["", "disconnect/", "close-topic/", "send-notice/"])
def test_staff_without_the_permission_are_refused(staff, page):
    browser = staff()

    assert browser.get(PAGE + page).status_code == 403
    assert browser.post(PAGE + page).status_code == 403


def test_the_page_names_who_is_connected_and_where(boss, connected):
    mary = person("mary")
    connected(socket_of(mary))

    page = boss.get(PAGE).content.decode()

    assert f"mary ({mary.pk})" in page
    assert "/ws/chat/" in page
