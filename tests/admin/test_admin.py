"""The page of Django's admin: who is connected, who may see and do what, what is noted."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from concurrent.futures import CancelledError

import pytest
from django.apps import apps
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser, Permission
from django.core.management import call_command
from django.db import connection
from django.test import Client, override_settings
from django.urls import path
from django.utils.functional import SimpleLazyObject

from support.clients.wire_client import WireClient
from support.waiting import wait_until
from tiderace.exceptions import LayerUnavailable
from tiderace.generic.websocket import AsyncJsonWebsocketConsumer
from tiderace.layers import channel_layers
from tiderace.monitoring import cluster_connections, overview
from tiderace.monitoring.recent_logs import recent_records
from tiderace.runtime import sync_bridge
from tiderace.runtime.drain import process_drain
from tiderace.testing import WebsocketCommunicator
from tiderace.topics import (
    AllowAny,
    History,
    Topic,
    TopicsEndpoint,
    UnknownTopic,
    close_topic,
)
from tiderace.topics.declaration.topic import declared

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
    sync_bridge.close()
    yield
    channel_layers.backends = {}
    recent_records.clear()
    sync_bridge.close()


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
        permission_classes = [AllowAny]
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
        if isinstance(thing, WireClient):
            sync_bridge.call(thing.__aenter__)
        else:
            assert sync_bridge.call(thing.connect)[0]
        return thing

    yield connect
    for thing in begun:
        with contextlib.suppress(CancelledError):  # of one that was cut
            sync_bridge.call(getattr(thing, "socket", thing).disconnect)


def socket_of(user, path="/ws/chat/", consumer=AsyncJsonWebsocketConsumer):
    communicator = WebsocketCommunicator(consumer.as_asgi(), path)
    communicator.scope["user"] = user
    return communicator


def person(name):
    return get_user_model().objects.create_user(name)


def test_a_visitor_is_redirected_to_the_log_in(client):
    answer = client.get(PAGE)

    assert answer.status_code == 302
    assert answer["Location"].startswith("/admin/login/")


@pytest.mark.parametrize("page", ["", "disconnect/", "close-topic/", "send-notice/"])
def test_staff_without_the_permission_are_refused(staff, page):
    browser = staff()

    assert browser.get(PAGE + page).status_code == 403
    assert browser.post(PAGE + page).status_code == 403


def test_the_page_lists_connections_and_their_processes(boss, connected):
    mary = person("mary")
    connected(socket_of(mary))

    page = boss.get(PAGE).content.decode()

    assert f"mary ({mary.pk})" in page
    assert "/ws/chat/" in page


def test_the_page_shows_topic_clients_with_their_topics(boss, connected, room):
    client = connected(WireClient(TopicsEndpoint.as_asgi(), user=person("mary")))
    sync_bridge.call(client.subscribe, "room:tea")

    page = boss.get(PAGE).content.decode()

    assert client.id in page
    assert page.count("room:tea") > 1  # of the connection, and of the largest topics


def test_the_numbers_are_exact_where_the_list_is_cut(boss, connected, monkeypatch):
    monkeypatch.setattr(overview, "SIZE", 2)
    mary = person("mary")
    for number in range(3):
        connected(socket_of(mary, f"/ws/{number}/"))

    first, second = boss.get(PAGE), boss.get(PAGE, {"page": "2"})

    assert "1 to 2 of 3" in first.content.decode()
    assert [row["connection"].path for row in first.context["rows"]] == [
        "/ws/2/",
        "/ws/1/",
    ]
    assert [row["connection"].path for row in second.context["rows"]] == ["/ws/0/"]


@pytest.mark.parametrize("page", ["0", "-1", "x", "99999", "٣", "²"])
def test_an_invalid_page_number_is_accepted(boss, page):
    assert boss.get(PAGE, {"page": page}).status_code == 200


def test_the_list_can_be_of_one_user_or_one_topic(boss, connected, room):
    mary, tom = person("mary"), person("tom")
    connected(socket_of(tom, "/ws/toms/"))
    client = connected(WireClient(TopicsEndpoint.as_asgi(), user=mary))
    sync_bridge.call(client.subscribe, "room:tea")

    of_tom = boss.get(PAGE, {"user": str(tom.pk)}).context["rows"]
    of_tea = boss.get(PAGE, {"topic": "room:tea"}).context["rows"]

    assert [row["connection"].path for row in of_tom] == ["/ws/toms/"]
    assert [row["connection"].id for row in of_tea] == [client.id]


def test_names_chosen_by_users_are_escaped(boss, connected, room):
    evil = "<img src=x onerror=alert(1)>"
    client = connected(WireClient(TopicsEndpoint.as_asgi(), user=person(evil)))
    sync_bridge.call(client.subscribe, f"room:{evil}")
    connected(socket_of(AnonymousUser(), f"/ws/{evil}/"))
    logging.getLogger("tiderace.test").warning("said %s", evil)

    page = boss.get(PAGE, {"user": "", "topic": ""}).content.decode()
    filtered = boss.get(PAGE, {"user": evil, "topic": evil}).content.decode()

    assert page.count("&lt;img") >= 4
    assert "<img" not in page + filtered


def test_no_secret_is_shown(boss, connected):
    secret = "tok-5ecret"
    communicator = socket_of(person("mary"), f"/ws/chat/?token={secret}")
    communicator.scope["cookies"] = {"sessionid": secret}
    communicator.scope["headers"] = [(b"cookie", f"sessionid={secret}".encode())]
    connected(communicator)

    page = boss.get(PAGE).content.decode()

    assert "/ws/chat/" in page
    assert secret not in page


def test_recent_warnings_are_on_the_page_as_one_line(boss):
    logging.getLogger("tiderace.consumer").warning(
        "first\nsecond", extra={"reason": "handler_failed"}
    )

    page = boss.get(PAGE).content.decode()

    assert "first second" in page
    assert "tiderace.consumer, handler_failed" in page


def test_over_a_layer_of_another_project_the_page_shows_its_own_process(
    boss, connected, settings
):
    settings.CHANNEL_LAYERS = {}
    connected(socket_of(person("mary"), "/ws/alone/"))

    page = boss.get(PAGE).content.decode()

    assert "/ws/alone/" in page
    assert "these are the connections of one of them" in page


# ---- acting


def test_the_script_of_the_page_takes_no_message_from_the_next_page(boss, connected):
    mary = person("mary")
    connected(socket_of(mary))
    disconnect(boss, mary, confirmed="yes")

    part = boss.get(PAGE, headers={"Tiderace-Live": "1"}).text
    next_page = boss.get(PAGE).text

    assert "is being ended" in next_page
    assert "is being ended" not in part
    assert part.strip().startswith('<div id="tiderace-report">')


def disconnect(browser, user, reason="closing time", **more):
    fields = {"user": str(user.pk), "reason": reason, **more}
    return browser.post(f"{PAGE}disconnect/", fields)


def entries():
    return [
        (entry.object_repr, entry.change_message, entry.user.get_username())
        for entry in apps.get_model("admin", "LogEntry").objects.order_by("pk")
    ]


def test_an_action_asks_before_it_acts(boss, connected):
    mary = person("mary")
    socket = connected(socket_of(mary))

    answer = disconnect(boss, mary)

    assert "Close all connections of this user?" in answer.content.decode()
    assert sync_bridge.call(socket.receive_nothing)
    assert entries() == []


def test_a_consumers_socket_is_closed_with_the_reason(boss, connected):
    mary = person("mary")
    socket = connected(socket_of(mary))
    other = connected(socket_of(person("tom")))

    answer = disconnect(boss, mary, confirmed="yes")

    event = sync_bridge.call(socket.receive_output)
    assert event == {"type": "websocket.close", "code": 4403, "reason": "closing time"}
    assert sync_bridge.call(other.receive_nothing)
    assert answer.status_code == 302
    assert "1 connection of user" in boss.get(PAGE).content.decode()


def test_a_topic_client_is_closed_for_good(boss, connected):
    mary = person("mary")
    client = connected(WireClient(TopicsEndpoint.as_asgi(), user=mary))

    disconnect(boss, mary, confirmed="yes")

    assert sync_bridge.call(client.closed) == (3503, "closing time")


def test_a_lazy_user_that_is_not_loaded_is_disconnected_too(boss, connected):
    mary = person("mary")
    socket = connected(socket_of(SimpleLazyObject(lambda: mary)))

    disconnect(boss, mary, confirmed="yes")

    assert sync_bridge.call(socket.receive_output)["code"] == 4403


def test_a_handler_that_hangs_does_not_keep_the_socket_open(boss, connected, settings):
    settings.TIDERACE = {"DRAIN_GRACE": 0}
    stuck = threading.Event()

    class Stuck(AsyncJsonWebsocketConsumer):
        async def receive_json(self, content):
            stuck.set()
            await asyncio.Event().wait()

    mary = person("mary")
    socket = connected(socket_of(mary, consumer=Stuck))
    sync_bridge.call(socket.send_json_to, {})
    assert stuck.wait(10)

    disconnect(boss, mary, confirmed="yes")

    wait_until(lambda: not process_drain.open, what="the end of the connection")


def test_an_action_is_written_to_the_admins_log(boss, connected):
    mary = person("mary")
    connected(socket_of(mary))

    disconnect(boss, mary, confirmed="yes")

    assert entries() == [
        (f"user {mary.pk}", "Disconnected. Reason: closing time", "boss")
    ]
    assert "Disconnected. Reason: closing time" in boss.get(PAGE).content.decode()


def test_a_failed_action_is_logged_as_failed(boss, connected, monkeypatch):
    async def away(*arguments, **options):
        raise LayerUnavailable("the broker is away")

    monkeypatch.setattr(cluster_connections, "disconnect_user_everywhere", away)

    disconnect(boss, person("mary"), confirmed="yes")

    assert [message for _, message, _ in entries()] == [
        "Disconnected. Reason: closing time",
        "Failed: Disconnected. Reason: closing time",
    ]
    assert "the broker is away" in boss.get(PAGE).content.decode()


@pytest.mark.parametrize(
    "reason", ["", "two\nlines", "\u202egnihtemos", "x" * 124, "é" * 62, "a\x00b"]
)
def test_a_reason_that_is_too_long_or_not_one_line_is_refused(boss, connected, reason):
    mary = person("mary")
    socket = connected(socket_of(mary))

    answer = disconnect(boss, mary, reason, confirmed="yes")

    assert "Please correct" in answer.content.decode()
    assert sync_bridge.call(socket.receive_nothing)


def test_an_action_needs_a_csrf_token(boss):
    browser = Client(enforce_csrf_checks=True)
    browser.cookies = boss.cookies

    assert disconnect(browser, person("mary"), confirmed="yes").status_code == 403


@pytest.mark.parametrize(
    ("permission", "page"),
    [
        ("view_connections", ""),
        ("disconnect_users", "disconnect/"),
        ("close_topics", "close-topic/"),
        ("send_notices", "send-notice/"),
    ],
)
def test_each_action_needs_its_permission(staff, permission, page):
    browser = staff(permission)

    answers = {
        each: browser.get(PAGE + each).status_code
        for each in ("", "disconnect/", "close-topic/", "send-notice/")
    }

    assert answers == {each: 200 if each == page else 403 for each in answers}


def test_a_user_who_may_not_view_is_redirected_to_the_index(staff):
    browser = staff("disconnect_users")

    answer = disconnect(browser, person("mary"), confirmed="yes")

    assert answer["Location"] == "/admin/"


def test_the_page_links_only_permitted_actions(staff, connected):
    connected(socket_of(person("mary")))

    page = staff("view_connections", "close_topics").get(PAGE).content.decode()

    assert "close-topic/" in page
    assert "disconnect/" not in page


def test_a_topic_is_closed_for_all_of_its_subscribers(boss, connected, room):
    clients = [
        connected(WireClient(TopicsEndpoint.as_asgi(), user=person(name)))
        for name in ("mary", "tom")
    ]
    for client in clients:
        sync_bridge.call(client.subscribe, "room:tea")
        sync_bridge.call(client.subscribe, "room:coffee")

    boss.post(
        f"{PAGE}close-topic/",
        {"topic": "room:tea", "reason": "off topic", "confirmed": "yes"},
    )

    for client in clients:
        push = sync_bridge.call(client.push, "unsubscribe")
        assert push["channel"] == "room:tea"
        assert push["unsubscribe"]["code"] == 2000
        assert sync_bridge.call(client.quiet)
    assert entries() == [("topic room:tea", "Closed. Reason: off topic", "boss")]


def test_an_unknown_topic_is_refused_with_the_declared_ones(boss, room):
    answer = boss.post(f"{PAGE}close-topic/", {"topic": "nope", "reason": "x"})

    assert "room:&lt;str:name&gt;" in answer.content.decode()


def test_close_topic_may_be_called_from_code(connected, room):
    client = connected(WireClient(TopicsEndpoint.as_asgi(), user=person("mary")))
    sync_bridge.call(client.subscribe, "room:tea")

    close_topic("room:tea", code=2500, reason="come again")

    push = sync_bridge.call(client.push, "unsubscribe")
    assert push["unsubscribe"] == {"code": 2500, "reason": "come again"}


def test_close_topic_refuses_an_illegal_code(room):
    with pytest.raises(ValueError, match="use 2000 to 2999"):
        close_topic("room:tea", code=1000)
    with pytest.raises(UnknownTopic):
        close_topic("nope")


def notice(browser, to, name, **more):
    fields = {"to": to, "name": name, "message_type": "notice", "text": "high tide"}
    return browser.post(f"{PAGE}send-notice/", {**fields, "confirmed": "yes", **more})


NOTICE = {"type": "notice", "text": "high tide"}


def test_a_notice_reaches_the_topic_clients_of_a_user(boss, connected):
    mary = person("mary")
    client = connected(WireClient(TopicsEndpoint.as_asgi(), user=mary))

    notice(boss, "user", str(mary.pk))

    assert sync_bridge.call(client.push, "message")["message"]["data"] == NOTICE


def test_a_notice_reaches_the_subscribers_of_a_topic(boss, connected, room):
    client = connected(WireClient(TopicsEndpoint.as_asgi(), user=person("mary")))
    sync_bridge.call(client.subscribe, "room:tea")

    notice(boss, "topic", "room:tea")

    assert sync_bridge.call(client.publications, 1) == [NOTICE]


def test_the_groups_of_topics_and_processes_are_not_listed(boss, connected, room):
    class Listening(AsyncJsonWebsocketConsumer):
        groups = ["harbour"]

    connected(socket_of(person("mary"), consumer=Listening))
    client = connected(WireClient(TopicsEndpoint.as_asgi(), user=person("tom")))
    sync_bridge.call(client.subscribe, "room:tea")

    assert boss.get(PAGE).context["groups"] == [("harbour", 1)]


def test_a_notice_calls_the_method_of_a_groups_consumers(boss, connected):
    class Listening(AsyncJsonWebsocketConsumer):
        groups = ["harbour"]

        async def tide_notice(self, event):
            await self.send_json(event)

    socket = connected(socket_of(person("mary"), consumer=Listening))

    notice(boss, "group", "harbour", message_type="tide.notice")

    assert sync_bridge.call(socket.receive_json_from) == {
        **NOTICE,
        "type": "tide.notice",
    }
    assert entries() == [
        ("group harbour", "Sent a notice (tide.notice): high tide", "boss")
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        {"to": "everybody"},
        {"to": "topic", "name": "nope"},
        {"to": "group", "name": "no spaces"},
        {"message_type": "_private"},
        {"message_type": "a b"},
        {"text": ""},
    ],
)
def test_an_illegal_notice_is_refused(boss, wrong):
    answer = notice(boss, **{"to": "group", "name": "harbour", **wrong})

    assert "Please correct" in answer.content.decode()
    assert entries() == []


# ---- what a project with the app gets, and does not


def test_there_is_no_table_and_no_migration(boss):
    with connection.cursor() as cursor:
        tables = connection.introspection.table_names(cursor)

    assert "tiderace_connections" not in tables
    call_command("makemigrations", check=True, dry_run=True, verbosity=0)


def test_dumpdata_works_without_the_table(boss, capsys):
    for options in ({}, {"use_base_manager": True}):
        call_command("dumpdata", "tiderace", **options)

        assert capsys.readouterr().out.strip() == "[]"


def test_a_warning_without_another_handler_is_printed(monkeypatch, capsys):
    logger = logging.getLogger("tiderace.lonely")
    monkeypatch.setattr(logging.getLogger(), "handlers", [])

    logger.warning("nobody listens")

    assert "nobody listens" in capsys.readouterr().err
    assert recent_records.latest()[0].text == "nobody listens"


def test_a_warning_with_another_handler_is_not_printed_again(capsys):
    logging.getLogger("tiderace.heard").warning("somebody listens")

    assert "somebody listens" not in capsys.readouterr().err


def test_the_number_of_records_is_limited():
    for number in range(60):
        logging.getLogger("tiderace.test").warning("x" * 1000 + str(number))

    records = recent_records.latest()

    assert len(records) == 50
    assert {len(record.text) for record in records} == {300}
