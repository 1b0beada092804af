"""Migration operations for PostgreSQL: publishing from SQL and by triggers.

::

    from tiderace.outbox.operations import PublishChanges

    class Migration(migrations.Migration):
        dependencies = [
            ("chat", "0001_initial"),
            ("tiderace_outbox", "0002_publish_in_sql"),
        ]
        operations = [
            PublishChanges("message", topics=["room:{room_id}"], fields=["id", "text"]),
        ]
"""

# Django documents ``_meta``.
# ruff: noqa: SLF001

from __future__ import annotations

import logging
from collections.abc import Sequence
from string import Formatter
from typing import Any

from django.db import router
from django.db.backends.utils import truncate_name
from django.db.migrations.operations.base import Operation

__all__ = ["CreatePublishFunction", "PublishChanges"]

logger = logging.getLogger("tiderace.outbox")

# The functions have the search path of the migration: another program may set any other.
_FUNCTION = """
CREATE OR REPLACE FUNCTION tiderace_publish(topic text, data jsonb) RETURNS void
LANGUAGE sql SET search_path FROM CURRENT AS $body$
    INSERT INTO tiderace_outbox (topic, data) VALUES ($1, coalesce($2, 'null')::text)
$body$"""

_TRIGGER_FUNCTION = """
CREATE OR REPLACE FUNCTION {function}() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT AS $body$
DECLARE
    old_topics text[] := ARRAY[]::text[];
    new_topics text[] := ARRAY[]::text[];
BEGIN
    IF TG_OP = 'UPDATE' AND OLD IS NOT DISTINCT FROM NEW THEN
        RETURN NULL;
    END IF;
    IF TG_OP <> 'INSERT' THEN
        old_topics := ARRAY(SELECT DISTINCT name FROM unnest({old_topics}) name
                            WHERE name IS NOT NULL);
    END IF;
    IF TG_OP <> 'DELETE' THEN
        new_topics := ARRAY(SELECT DISTINCT name FROM unnest({new_topics}) name
                            WHERE name IS NOT NULL);
    END IF;
    INSERT INTO tiderace_outbox (topic, data)
        SELECT name, {deleted} FROM unnest(old_topics) name
        WHERE name <> ALL (new_topics);
    INSERT INTO tiderace_outbox (topic, data)
        SELECT name, CASE WHEN name = ANY (old_topics) THEN {updated} ELSE {created} END
        FROM unnest(new_topics) name;
    RETURN NULL;
END
$body$"""

_TRIGGER = """
CREATE TRIGGER tiderace_publish AFTER INSERT OR UPDATE OR DELETE ON {table}
FOR EACH ROW EXECUTE FUNCTION {function}()"""


class _PostgreSQLOperation(Operation):
    """Runs SQL on PostgreSQL; on other databases it does nothing."""

    def state_forwards(self, app_label: str, state: Any) -> None:
        """Leave the models as they are."""

    def _execute(self, schema_editor: Any, *statements: str) -> None:
        for statement in statements:
            # No parameters, so that percent signs stay as they are.
            schema_editor.execute(statement.strip(), params=None)


class CreatePublishFunction(_PostgreSQLOperation):
    """Creates the function ``tiderace_publish(topic, data)``.

    ``SELECT tiderace_publish('room:1', '{"text": "hi"}')`` in any program is part of
    that program's transaction, as ``publish()`` is in a view.
    """

    def database_forwards(
        self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any
    ) -> None:
        if _allows(schema_editor, app_label):
            self._execute(schema_editor, _FUNCTION)

    def database_backwards(
        self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any
    ) -> None:
        if _allows(schema_editor, app_label):
            self._execute(schema_editor, "DROP FUNCTION tiderace_publish(text, jsonb)")

    def describe(self) -> str:
        """Return what ``migrate`` prints."""
        return "Create the SQL function tiderace_publish"


class PublishChanges(_PostgreSQLOperation):
    """Publishes each change of a table's rows by a trigger, in whatever way it is made.

    Changes by raw SQL, ``bulk_create()``, ``bulk_update()``, ``QuerySet.update()``,
    cascades of the database and other programs are published; ``TRUNCATE`` is not. A
    publication has the form of ``PublishesChanges``: event, model, pk and fields; do not
    use both for one model. An update that changes no value publishes nothing. When a row
    moves to another topic, the old one gets ``"deleted"`` with the old values.

    On other databases than PostgreSQL it does nothing, with a warning in the log. After
    the table or one of the columns was renamed, apply it again.

    Args:
        model: the model's name in the app of the migration.
        topics: names of topics with columns in braces: ``"room:{room_id}"``. A row in
            which one of the columns is null is not published there.
        fields: the fields to publish, by attribute name; none by default.
    """

    def __init__(
        self, model: str, *, topics: Sequence[str], fields: Sequence[str] = ()
    ) -> None:
        self.model = model
        self.topics = topics
        self.fields = fields

    def database_forwards(
        self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any
    ) -> None:
        """Create the trigger.

        Raises:
            FieldDoesNotExist: when a topic or ``fields`` names a field that is missing.
        """
        connection = schema_editor.connection
        if connection.vendor != "postgresql":
            logger.warning(
                "changes of %s by raw SQL, bulk_create(), bulk_update() and update() are "
                "not published from the database %r: only PostgreSQL has triggers for it",
                self.model,
                connection.alias,
            )
        model = to_state.apps.get_model(app_label, self.model)
        if not _allows(schema_editor, app_label, model_name=model._meta.model_name):
            return
        self._execute(
            schema_editor,
            self._function_sql(schema_editor, model),
            _TRIGGER.format(
                table=schema_editor.quote_name(model._meta.db_table),
                function=_function_name(schema_editor, model),
            ),
        )

    def database_backwards(
        self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any
    ) -> None:
        model = to_state.apps.get_model(app_label, self.model)
        if not _allows(schema_editor, app_label, model_name=model._meta.model_name):
            return
        table = schema_editor.quote_name(model._meta.db_table)
        self._execute(
            schema_editor,
            f"DROP TRIGGER tiderace_publish ON {table}",
            f"DROP FUNCTION {_function_name(schema_editor, model)}()",
        )

    def describe(self) -> str:
        """Return what ``migrate`` prints."""
        return f"Publish the changes of {self.model} by a trigger"

    def _function_sql(self, schema_editor: Any, model: Any) -> str:
        def value(row: str, name: str) -> str:
            column = model._meta.get_field(name).column
            return f"{row}.{schema_editor.quote_name(column)}"

        def topics(row: str) -> str:
            names = []
            for pattern in self.topics:
                parts = ["''"]
                for text, name, _, _ in Formatter().parse(pattern):
                    parts.append(schema_editor.quote_value(text))
                    if name is not None:
                        parts.append(f"{value(row, name)}::text")
                names.append(" || ".join(parts))
            return f"ARRAY[{', '.join(names)}]::text[]"

        def data(event: str, row: str) -> str:
            pairs = [
                f"{schema_editor.quote_value(name)}, {value(row, name)}"
                for name in self.fields
            ]
            # A function takes 100 arguments.
            objects = [
                f"jsonb_build_object({', '.join(pairs[start : start + 40])})"
                for start in range(0, len(pairs), 40)
            ]
            return (
                f"jsonb_build_object('event', '{event}', 'model', "
                f"{schema_editor.quote_value(model._meta.label_lower)}, 'pk', "
                f"{value(row, model._meta.pk.name)}, 'fields', "
                f"{' || '.join(objects) or 'jsonb_build_object()'})::text"
            )

        return _TRIGGER_FUNCTION.format(
            function=_function_name(schema_editor, model),
            old_topics=topics("OLD"),
            new_topics=topics("NEW"),
            deleted=data("deleted", "OLD"),
            updated=data("updated", "NEW"),
            created=data("created", "NEW"),
        )


def _function_name(schema_editor: Any, model: Any) -> str:
    name = f"tiderace_publish_{model._meta.label_lower.replace('.', '_')}"
    quoted: str = schema_editor.quote_name(truncate_name(name, 63))
    return quoted


def _allows(schema_editor: Any, app_label: str, **hints: Any) -> bool:
    connection = schema_editor.connection
    return connection.vendor == "postgresql" and router.allow_migrate(
        connection.alias, app_label, **hints
    )
