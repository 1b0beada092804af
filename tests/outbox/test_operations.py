"""Publishing from SQL and by triggers, on PostgreSQL."""

from __future__ import annotations

import json

import pytest
from django.core.exceptions import FieldDoesNotExist
from django.db import connections, models, transaction
from django.db.migrations.state import ModelState, ProjectState

from support.outbox import messages_of, waiting_in
from tiderace.outbox.hand_over import hand_over
from tiderace.outbox.operations import PublishChanges


class TriggeredNote(models.Model):
    """A table whose changes a trigger publishes."""

    board = models.CharField(max_length=20, null=True)  # noqa: DJ001 (null is a case)
    text = models.CharField(max_length=40)
    secret = models.CharField(max_length=20, default="")

    class Meta:
        app_label = "notes_of_the_outbox"

    def __str__(self):
        return self.text


OPERATION = PublishChanges("triggerednote", topics=["board:{board}"], fields=["text"])


def run(operation, database, *, backwards=False):
    """Carry out an operation of a migration."""
    state = ProjectState()
    state.add_model(ModelState.from_model(TriggeredNote))
    method = operation.database_backwards if backwards else operation.database_forwards
    with connections[database].schema_editor() as editor:
        method("notes_of_the_outbox", editor, state, state)


@pytest.fixture
def notes(postgresql):
    """The rows of a table with the trigger."""
    with connections[postgresql].schema_editor() as editor:
        editor.create_model(TriggeredNote)
    run(OPERATION, postgresql)
    yield TriggeredNote.objects.using(postgresql)
    with connections[postgresql].schema_editor() as editor:
        editor.delete_model(TriggeredNote)


@pytest.fixture
def published(notes, postgresql):
    """Return a function that publishes what waits and returns what a board has got."""

    def read(name):
        hand_over(postgresql)
        return [(each["event"], each["fields"]["text"]) for each in messages_of(name)]

    return read


def execute(database, sql, *values):
    with connections[database].cursor() as cursor:
        cursor.execute(sql, values or None)


def test_the_function_publishes_as_part_of_its_transaction(postgresql):
    sql = """SELECT tiderace_publish('board:a', '{"text": "100% of it"}')"""
    execute(postgresql, sql)
    with transaction.atomic(postgresql):
        execute(postgresql, sql)
        transaction.set_rollback(True, using=postgresql)

    hand_over(postgresql)

    assert messages_of("a") == [{"text": "100% of it"}]


def test_the_function_publishes_null(postgresql):
    execute(postgresql, "SELECT tiderace_publish('board:a', NULL)")

    assert waiting_in(postgresql) == [("board:a", "null")]


def test_the_function_does_not_depend_on_the_search_path(postgresql):
    with transaction.atomic(postgresql):
        execute(postgresql, "SET LOCAL search_path TO pg_catalog")
        execute(postgresql, "SELECT public.tiderace_publish('board:a', '1')")

    assert waiting_in(postgresql) == [("board:a", "1")]


def test_a_publication_of_a_trigger_has_the_form_of_publishes_changes(
    notes, postgresql
):
    note = notes.create(board="a", text="hi", secret="x")

    ((_, data),) = waiting_in(postgresql)
    assert json.loads(data) == {
        "event": "created",
        "model": "notes_of_the_outbox.triggerednote",
        "pk": note.pk,
        "fields": {"text": "hi"},
    }


def test_changes_without_signals_are_published(notes, published, postgresql):
    notes.bulk_create([TriggeredNote(board="a", text="one")])
    notes.update(text="two")
    (note,) = notes.all()
    note.text = "three"
    notes.bulk_update([note], ["text"])
    execute(postgresql, "UPDATE notes_of_the_outbox_triggerednote SET text = 'four'")
    notes.all()._raw_delete(postgresql)

    assert published("a") == [
        ("created", "one"),
        ("updated", "two"),
        ("updated", "three"),
        ("updated", "four"),
        ("deleted", "four"),
    ]


def test_a_row_that_moves_is_deleted_in_one_topic_and_created_in_the_other(
    notes, published
):
    notes.create(board="a", text="before")
    notes.update(board="b", text="after")

    assert published("a") == [("created", "before"), ("deleted", "before")]
    assert published("b") == [("created", "after")]


def test_a_row_with_null_in_its_topic_is_not_published(notes, published, postgresql):
    notes.create(board=None, text="hidden")
    assert waiting_in(postgresql) == []

    notes.update(board="a")

    assert published("a") == [("created", "hidden")]


def test_an_update_that_changes_nothing_is_not_published(notes, published):
    notes.create(board="a", text="hi")
    notes.update(text="hi")

    assert published("a") == [("created", "hi")]


def test_a_rolled_back_change_is_not_published(notes, postgresql):
    with transaction.atomic(postgresql):
        notes.create(board="a", text="hi")
        transaction.set_rollback(True, using=postgresql)

    assert waiting_in(postgresql) == []


def test_the_operation_can_be_reversed(notes, postgresql):
    run(OPERATION, postgresql, backwards=True)

    notes.create(board="a", text="hi")

    assert waiting_in(postgresql) == []


def test_a_topic_with_an_unknown_field_is_refused(postgresql):
    operation = PublishChanges("triggerednote", topics=["board:{bored}"])

    with pytest.raises(FieldDoesNotExist, match="bored"):
        run(operation, postgresql)


def test_another_database_is_left_alone_with_a_warning(sqlite, caplog):
    run(OPERATION, sqlite)
    run(OPERATION, sqlite, backwards=True)

    assert "changes of triggerednote by raw SQL" in caplog.text


def test_the_operation_can_be_written_into_a_migration():
    name, arguments, options = OPERATION.deconstruct()

    assert name == "PublishChanges"
    assert tuple(arguments) == ("triggerednote",)
    assert options == {"topics": ["board:{board}"], "fields": ["text"]}
