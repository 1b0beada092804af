"""Tests of the clients of topics for tests, sync and async."""

from __future__ import annotations

from unittest import mock

import pytest
from django.contrib.auth.models import AnonymousUser, Permission, User
from django.urls import path

from sites.chat_site import Endpoint, Users
from tiderace.routing import get_application
from tiderace.security.bearer import TokenAuthMiddleware
from tiderace.testing import (
    AsyncTopicsClient,
    Refusal,
    TopicsClient,
    assert_refused,
)
from tiderace.topics import (
    TopicsEndpoint,
    adisconnect,
    apublish,
    asend_to,
    close_topic,
    disconnect,
    publish,
    send_to,
    subscribe,
    unsubscribe,
)
from tiderace.topics.tokens import connection_token, subscription_token

pytestmark = [pytest.mark.django_db]


@pytest.fixture(autouse=True)
def site(settings, topics):
    settings.ASGI_APPLICATION = "sites.chat_site.application"


@pytest.fixture
def alice():
    return User.objects.create_user("alice", first_name="member")


@pytest.fixture
def bob():
    return User.objects.create_user("bob", first_name="member")


@pytest.fixture
def stranger():
    return User.objects.create_user("mallory")


# Logging in


def test_a_client_is_logged_in_with_a_session(topics, alice):
    client = topics.connect(user=alice)

    assert client.data == {"you": "alice", "sent": None}


def test_a_client_takes_the_session_of_djangos_client(topics, client, alice):
    client.force_login(alice)

    assert topics.connect(cookies=client.cookies).data["you"] == "alice"


def test_a_client_without_a_user_is_anonymous(topics):
    assert topics.connect().data["you"] == ""


def test_a_client_sends_data_with_connect(topics):
    assert topics.connect(data={"version": 3}).data["sent"] == {"version": 3}


def test_a_client_that_is_refused_on_connect_gets_code_and_reason(topics):
    with assert_refused(450, "not today"):
        topics.connect(data="unwanted")


def test_a_page_of_another_site_is_refused_with_403(topics):
    with assert_refused(403):
        topics.connect(origin="https://evil.example")


def test_a_host_that_is_not_allowed_is_refused_with_400_and_the_reason(topics):
    with assert_refused(400, "is not one of this site"):
        topics.connect(headers={"Host": "evil.example"})


def test_a_client_logs_in_with_a_token(topics, alice):
    assert topics.connect(token=connection_token(alice)).data["you"] == "alice"


def test_a_client_logs_in_with_a_bearer_token(topics, alice):
    application = get_application(
        [path("connection/", Endpoint.as_asgi())], middleware=TokenAuthMiddleware
    )
    headers = {"Authorization": f"Bearer {connection_token(alice)}"}

    client = topics.connect(application=application, headers=headers)

    assert client.data["you"] == "alice"


def test_a_subscription_token_permits_what_the_topic_does_not(topics, stranger):
    client = topics.connect(user=stranger)
    token = subscription_token(stranger, "chat-site:tea")

    assert client.subscribe("chat-site:tea", token=token).data["welcome"] == "mallory"


def test_a_wrong_token_is_refused_with_the_code_of_the_close(topics):
    with assert_refused(3500, "invalid token"):
        topics.connect(token="junk")


def test_an_application_that_ignores_the_session_is_named(topics, alice):
    application = get_application(
        [path("connection/", TopicsEndpoint.as_asgi())], middleware=None
    )

    with pytest.raises(RuntimeError, match=r"is anonymous; .* AuthMiddlewareStack"):
        topics.connect(user=alice, application=application)


def test_a_user_that_is_not_saved_cannot_log_in(topics):
    with pytest.raises(ValueError, match="carol cannot log in before it is saved"):
        topics.connect(user=User(username="carol"))


def test_a_name_in_place_of_a_user_is_refused(topics):
    with pytest.raises(TypeError, match="user is 'alice'; pass a saved user"):
        topics.connect(user="alice")


def test_an_anonymous_user_cannot_log_in(topics):
    with pytest.raises(ValueError, match="leave user out"):
        topics.connect(user=AnonymousUser())


# Subscribing


def test_a_member_receives_publications(topics, alice):
    room = topics.connect(user=alice).subscribe("chat-site:tea")

    publish("chat-site:tea", {"text": "hi"})

    assert room.receive() == {"text": "hi"}


def test_a_stranger_is_refused(topics, stranger):
    client = topics.connect(user=stranger)

    with assert_refused(103, "permission denied"):
        client.subscribe("chat-site:tea")


def test_a_refusal_names_the_topic_and_the_cause(topics, stranger):
    client = topics.connect(user=stranger)

    with pytest.raises(
        Refusal,
        match=r"subscribe to 'chat-site:tea': 103, permission denied: .*can_subscribe",
    ):
        client.subscribe("chat-site:tea")


def test_the_hook_of_a_subscription_gets_and_returns_data(topics, alice):
    room = topics.connect(user=alice).subscribe("chat-site:tea", data="hello")

    assert room.data == {"welcome": "alice", "said": "hello"}


def test_a_client_that_has_unsubscribed_receives_nothing(topics, alice):
    room = topics.connect(user=alice).subscribe("chat-site:tea")

    room.unsubscribe()
    publish("chat-site:tea", {"text": "hi"})

    assert room.unread() == []


def test_unread_publications_are_returned_once_without_waiting(topics, alice):
    room = topics.connect(user=alice).subscribe("chat-site:tea")

    publish("chat-site:tea", 1)
    publish("chat-site:tea", 2)

    assert room.unread() == [1, 2]
    assert room.unread() == []


def test_a_subscription_recovers_what_was_published_since_a_position(topics, alice):
    first = topics.connect(user=alice).subscribe("chat-site:tea")
    publish("chat-site:tea", {"text": "missed"})

    room = topics.connect(user=alice).subscribe("chat-site:tea", since=first.position)

    assert room.recovered
    assert room.position.offset == first.position.offset + 1
    assert room.receive() == {"text": "missed"}


def test_a_topic_that_delivers_at_a_pace_does_not_wait_in_a_test(topics, alice):
    sensor = topics.connect(user=alice).subscribe("chat-site-sensor:roof")

    for value in (1, 2, 3):
        publish("chat-site-sensor:roof", value)

    assert sensor.unread() == [1, 2, 3]


def test_a_client_receives_in_topics_that_the_server_subscribes_it_to(topics, alice):
    client = topics.connect(user=alice)

    publish(f"chat-site-inbox:{alice.pk}", "for you")

    assert client.topic(f"chat-site-inbox:{alice.pk}").receive() == "for you"


# Publishing and calls


def test_a_publication_is_what_on_publish_returns(topics, alice, bob):
    room = topics.connect(user=alice).subscribe("chat-site:tea")
    other = topics.connect(user=bob).subscribe("chat-site:tea")

    room.publish({"text": "hi"})

    received = other.receive_publication()
    assert received.data == {"text": "hi", "by": "alice"}
    assert received.publisher.user_id == str(alice.pk)
    assert received.publisher.info == {"name": "alice"}
    assert received.offset == 1


def test_a_publication_that_a_hook_refuses_has_its_code_and_reason(topics, alice):
    room = topics.connect(user=alice).subscribe("chat-site:tea")

    with assert_refused(422, "needs a text"):
        room.publish({})


def test_a_method_of_a_topic_sees_the_data_of_the_test(topics, alice, bob):
    room = topics.connect(user=alice).subscribe("chat-site:tea")

    assert room.call("members") == 2


def test_a_method_of_the_endpoint_gets_its_arguments(topics):
    assert topics.connect().call("add", a=1, b=2) == 3


def test_a_method_that_raises_is_refused_as_an_internal_error(topics, alice):
    room = topics.connect(user=alice).subscribe("chat-site:tea")

    with assert_refused(100, "a bug in the method"):
        room.call("fail")


def test_a_message_is_handled_when_send_returns(topics, alice):
    topics.connect(user=alice).send("Smith")

    alice.refresh_from_db()
    assert alice.last_name == "Smith"


# History and presence


def test_the_history_is_read_as_the_client(topics, alice):
    room = topics.connect(user=alice).subscribe("chat-site:tea")
    publish("chat-site:tea", 1)
    publish("chat-site:tea", 2)

    assert room.history().messages == [1, 2]
    assert room.history(limit=1, reverse=True).messages == [2]
    assert room.history(since=room.position).position.offset == 2


def test_the_members_of_a_topic_are_listed(topics, alice, bob):
    client = topics.connect(user=alice)
    room = client.subscribe("chat-site:tea")
    topics.connect(user=bob).subscribe("chat-site:tea")

    members = room.presence()

    assert {each.user_id for each in members} == {str(alice.pk), str(bob.pk)}
    assert client.id in {each.client for each in members}


def test_waiting_for_a_join_without_presence_names_the_attribute(topics, alice):
    inbox = topics.connect(user=alice).topic(f"chat-site-inbox:{alice.pk}")

    with pytest.raises(RuntimeError, match=r"Inbox\.presence is Presence\.OFF"):
        inbox.receive_join()


def test_the_join_of_another_tab_is_received_where_connections_are_members(
    topics, alice
):
    room = topics.connect(user=alice).subscribe("chat-site:tea")

    other = topics.connect(user=alice)
    other.subscribe("chat-site:tea")

    assert room.receive_join().client == other.id


def test_the_join_of_another_user_is_received_where_users_are_members(
    topics, alice, bob
):
    room = topics.connect(user=alice).subscribe("chat-site-users:tea")

    topics.connect(user=bob).subscribe("chat-site-users:tea")

    assert room.receive_join().user_id == str(bob.pk)


def test_a_user_leaves_without_delay_when_there_is_no_grace(topics, alice, bob):
    room = topics.connect(user=alice).subscribe("chat-site-users:tea")

    with mock.patch.object(Users, "presence_grace", 0):
        other = topics.connect(user=bob).subscribe("chat-site-users:tea")
    other.unsubscribe()

    assert room.receive_leave().user_id == str(bob.pk)


def test_joins_and_leaves_of_others_are_received(topics, alice, bob):
    room = topics.connect(user=alice).subscribe("chat-site:tea")

    other = topics.connect(user=bob)
    other.subscribe("chat-site:tea")
    assert room.receive_join().user_id == str(bob.pk)

    other.disconnect()
    assert room.receive_leave().info == {"name": "bob"}


def test_a_whisper_of_another_client_is_received_with_its_sender(topics, alice, bob):
    room = topics.connect(user=alice).subscribe("chat-site:tea")
    other = topics.connect(user=bob)

    other.subscribe("chat-site:tea").whisper({"typing": True})

    received = room.receive_whisper()
    assert received.data == {"typing": True}
    assert (received.sender.client, received.sender.user_id) == (other.id, str(bob.pk))
    assert received.sender.info == {"name": "bob"}


def test_a_refused_whisper_raises(topics, alice):
    room = topics.connect(user=alice).subscribe("chat-site-users:tea")

    with assert_refused(108, "not available"):
        room.whisper()


# Commands of the server


def test_a_message_to_a_user_is_received(topics, alice):
    client = topics.connect(user=alice)

    send_to(alice, {"mail": 1})

    assert client.receive() == {"mail": 1}


def test_the_end_of_a_connection_has_code_and_reason(topics, alice):
    client = topics.connect(user=alice)

    disconnect(alice, reason="banned")

    assert client.receive_close() == (3503, "banned")


def test_the_end_of_a_subscription_has_code_and_reason(topics, alice):
    room = topics.connect(user=alice).subscribe("chat-site:tea")

    unsubscribe(alice, "chat-site:tea")

    assert room.receive_unsubscribe() == (2000, "server unsubscribe")


def test_a_subscription_by_the_server_is_received(topics, stranger):
    room = topics.connect(user=stranger).topic("chat-site:tea")

    subscribe(stranger, "chat-site:tea")
    room.receive_subscribe()
    publish("chat-site:tea", 1)

    assert room.data == {"welcome": "mallory", "said": None}
    assert room.receive() == 1


def test_a_permission_that_is_withdrawn_in_the_test_ends_the_subscription(
    topics, alice
):
    room = topics.connect(user=alice).subscribe("chat-site:tea")

    alice.first_name = "guest"
    alice.save()
    alice.user_permissions.add(Permission.objects.first())

    assert room.receive_unsubscribe() == (2003, "permission denied")


def test_waiting_in_a_topic_whose_subscription_has_ended_fails_at_once(topics, alice):
    room = topics.connect(user=alice).subscribe("chat-site:tea")

    close_topic("chat-site:tea", reason="closed")

    with assert_refused(2000, "closed"):
        room.receive(timeout=None)


def test_waiting_on_a_closed_connection_fails_at_once(topics, alice):
    room = topics.connect(user=alice).subscribe("chat-site:tea")

    disconnect(alice)

    with assert_refused(3503):
        room.receive(timeout=None)
    with assert_refused(3503):
        room.publish({"text": "hi"})


def test_a_timeout_says_what_was_received_instead(topics, alice):
    client = topics.connect(user=alice)
    room = client.subscribe("chat-site:tea")
    send_to(alice, 1)

    with pytest.raises(
        TimeoutError,
        match=r"no publication of chat-site:tea within 0.1 s \(received and not read: .*message",
    ):
        room.receive(timeout=0.1)


# Without the testbed


def test_a_client_works_without_a_testbed(alice):
    with TopicsClient(user=alice) as client:
        room = client.subscribe("chat-site:tea")
        publish("chat-site:tea", 1)

        assert room.receive() == 1


def test_a_client_that_is_not_connected_says_so(alice):
    with pytest.raises(RuntimeError, match=r"not connected; call connect\(\)"):
        TopicsClient(user=alice).subscribe("chat-site:tea")


async def test_a_sync_client_in_an_async_test_names_the_async_one(topics):
    with pytest.raises(RuntimeError, match="aconnect"):
        topics.connect()


# Async tests


@pytest.mark.django_db(transaction=True)
async def test_an_async_client_does_what_the_sync_one_does(topics):
    alice = await User.objects.acreate(username="alice", first_name="member")
    client = await topics.aconnect(user=alice)
    room = await client.subscribe("chat-site:tea")

    await apublish("chat-site:tea", 1)
    assert await room.receive() == 1

    await room.publish({"text": "hi"})
    assert await room.receive() == {"text": "hi", "by": "alice"}

    assert await room.call("members") == 1
    await asend_to(alice, 2)
    assert await client.receive() == 2
    await adisconnect(alice)
    assert await client.receive_close() == (3503, "force disconnect")


@pytest.mark.django_db(transaction=True)
async def test_an_async_client_is_a_context_manager():
    async with AsyncTopicsClient() as client:
        assert await client.call("add", a=1, b=1) == 2
