"""Models that publish their changes, and ``publish`` inside transactions."""

from __future__ import annotations

import datetime
import uuid
from decimal import Decimal

import pytest
from django.contrib.sessions.models import Session
from django.db import connection, models, transaction
from django.db.models.deletion import Collector
from django.utils.translation import gettext_lazy

from tiderace.exceptions import LayerUnavailable
from tiderace.json_compat import to_json
from tiderace.topics import AllowAny, History, Topic, history, publish
from tiderace.topics.declaration.topic import declared
from tiderace.topics.models import PublishesChanges, SilentChangesQuerySet
from tiderace.topics.streams import layer_of


class Note(PublishesChanges, models.Model):
    board = models.CharField(max_length=20)
    text = models.CharField(max_length=20)
    secret = models.CharField(max_length=20, default="")

    publish_fields = ["text"]
    publish_on = ["board"]

    class Meta:
        app_label = "notes_of_the_tests"

    def __str__(self):
        return self.text

    def topics(self):
        return [f"board:{self.board}"] if self.board else []


@pytest.fixture(scope="module", autouse=True)
def table(django_db_setup, django_db_blocker):
    with django_db_blocker.unblock(), connection.schema_editor() as editor:
        editor.create_model(Note)
    yield
    with django_db_blocker.unblock(), connection.schema_editor() as editor:
        editor.delete_model(Note)


@pytest.fixture(autouse=True)
def boards(settings, db):
    with connection.cursor() as cursor:
        # Its app is not installed, so Django does not flush it.
        cursor.execute(f"DELETE FROM {Note._meta.db_table}")
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": "tiderace.layers.InMemoryChannelLayer"}
    }

    class Board(Topic):
        pattern = "board:<slug:name>"
        history = History()
        permission_classes = [AllowAny]

    yield
    declared.remove(Board)


def heard(name):
    return history(f"board:{name}").messages


def events(name):
    return [message["event"] for message in heard(name)]


pytestmark = pytest.mark.django_db(transaction=True)


def test_a_new_row_is_published_with_its_publish_fields():
    note = Note.objects.create(board="a", text="hi", secret="x")

    assert heard("a") == [
        {
            "event": "created",
            "model": "notes_of_the_tests.note",
            "pk": note.pk,
            "fields": {"text": "hi"},
        }
    ]


def test_a_changed_row_is_published_with_its_new_values():
    note = Note.objects.create(board="a", text="hi")
    note.text = "ho"
    note.save()

    assert [(each["event"], each["fields"]["text"]) for each in heard("a")] == [
        ("created", "hi"),
        ("updated", "ho"),
    ]


def test_a_deleted_row_is_published_with_its_key():
    note = Note.objects.create(board="a")
    key = note.pk
    note.delete()

    assert [(each["event"], each["pk"]) for each in heard("a")] == [
        ("created", key),
        ("deleted", key),
    ]


def test_a_row_that_moves_leaves_one_topic_and_enters_another():
    note = Note.objects.create(board="a")
    Note.objects.get(pk=note.pk)
    note.board = "b"
    note.save()

    assert events("a") == ["created", "deleted"]
    assert events("b") == ["created"]


def test_saving_fields_on_which_no_topic_depends_costs_no_query(
    django_assert_num_queries,
):
    note = Note.objects.create(board="a")
    note.text = "ho"
    with django_assert_num_queries(1):
        note.save(update_fields=["text"])

    assert events("a") == ["created", "updated"]


def test_rows_of_no_topic_are_not_published():
    Note.objects.create(board="")


def test_deleting_a_queryset_is_published_row_by_row():
    for _ in range(2):
        Note.objects.create(board="a")
    Note.objects.all().delete()

    assert events("a") == ["created"] * 2 + ["deleted"] * 2


def test_rows_of_other_models_are_deleted_without_being_loaded():
    collector = Collector(using="default")

    assert collector.can_fast_delete(Session.objects.all())
    assert not collector.can_fast_delete(Note.objects.all())


def test_nothing_is_published_before_the_commit():
    with transaction.atomic():
        Note.objects.create(board="a")
        assert heard("a") == []

    assert events("a") == ["created"]


def test_nothing_is_published_after_a_rollback():
    with transaction.atomic():
        Note.objects.create(board="a")
        transaction.set_rollback(True)

    assert heard("a") == []


def test_a_model_without_topics_raises_an_error():
    with pytest.raises(NotImplementedError, match="define topics"):
        PublishesChanges.topics(Note())


def test_publish_waits_for_the_commit_with_the_data_as_it_was():
    data = {"n": 1}
    with transaction.atomic():
        assert publish("board:a", data) is None
        data["n"] = 2

    assert heard("a") == [{"n": 1}]


def test_invalid_data_raises_before_the_commit():
    with transaction.atomic(), pytest.raises(TypeError):
        publish("board:a", object())


def test_an_unreachable_broker_at_the_commit_is_logged_and_raises_nothing(
    monkeypatch, caplog
):
    async def away(*args, **kwargs):
        raise LayerUnavailable("no answer")

    layer = layer_of(declared.resolve("board:a"))
    monkeypatch.setattr(layer, "stream_publish", away)
    with transaction.atomic():
        publish("board:a", 1)

    assert "a publication to 'board:a' is lost: no answer" in caplog.text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": [1, 2.5, None, True]}, '{"a":[1,2.5,null,true]}'),
        (datetime.date(2026, 1, 2), '"2026-01-02"'),
        (Decimal("1.10"), '"1.10"'),
        (uuid.UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
        ([gettext_lazy("hello")], '["hello"]'),
        ([float("nan"), gettext_lazy("hello")], '[null,"hello"]'),
    ],
)
def test_values_of_django_are_encoded_as_json(value, text):
    assert to_json(value) == text


@pytest.mark.parametrize("value", [object(), {"a": object()}, Note])
def test_values_without_a_json_form_are_refused(value):
    with pytest.raises(TypeError):
        to_json(value)


# Changes without signals


@pytest.fixture
def debugged(settings, monkeypatch):
    """A site under development in which nothing was noted yet."""
    settings.DEBUG = True
    monkeypatch.setattr(SilentChangesQuerySet, "_noted", set())


@pytest.mark.parametrize(
    ("method", "change"),
    [
        ("update", lambda: Note.objects.filter(board="a").update(text="new")),
        ("bulk_create", lambda: Note.objects.bulk_create([Note(board="a")])),
        (
            "bulk_update",
            lambda: Note.objects.bulk_update(Note.objects.all(), ["text"]),
        ),
    ],
)
def test_under_debug_a_change_without_signals_is_noted_once(
    debugged, caplog, method, change
):
    Note.objects.create(board="a")

    change()
    change()

    [record] = [each for each in caplog.records if each.name == "tiderace.topics"]
    assert f"{method}() of notes_of_the_tests.Note sends no sig" in record.getMessage()
    assert "call publish() too" in record.getMessage()


def test_changes_that_are_published_are_not_logged(debugged, caplog):
    note = Note.objects.create(board="a", text="hi")
    note.save()
    Note.objects.update_or_create(pk=note.pk, defaults={"text": "there"})
    Note.objects.all().delete()

    assert events("a") == ["created", "updated", "updated", "deleted"]
    assert not [each for each in caplog.records if each.name == "tiderace.topics"]


def test_without_debug_a_change_without_signals_is_not_noted(
    debugged, settings, caplog
):
    settings.DEBUG = False

    Note.objects.update(text="new")

    assert not [each for each in caplog.records if each.name == "tiderace.topics"]
