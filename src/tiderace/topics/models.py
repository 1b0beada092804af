"""Models whose changes are published after the commit: created, updated and deleted rows.

::

    class Message(PublishesChanges, models.Model):
        room = models.ForeignKey(Room, on_delete=models.CASCADE)
        text = models.TextField()

        publish_fields = ["id", "text"]

        def topics(self):
            return [f"room:{self.room_id}"]
"""

# The signal receivers are functions, and use private attributes of the class.
# ruff: noqa: SLF001

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Literal

import msgspec
from django.conf import settings
from django.db import models
from django.db.models import signals

from tiderace.topics.schema.message_types import returned_by
from tiderace.topics.schema.model_types import fields_type, key_type
from tiderace.topics.server_api.calls import publish

__all__ = ["Change", "PublishesChanges", "changes_of"]

logger = logging.getLogger("tiderace.topics")

Change = Literal["created", "updated", "deleted"]


class SilentChangesQuerySet(models.QuerySet[Any]):
    """Logs under ``DEBUG``, once for each model, the calls that send no signals.

    The methods work as in Django.
    """

    _noted: ClassVar[set[type]] = set()

    def update(self, **kwargs: Any) -> int:
        self._note("update")
        return super().update(**kwargs)

    update.alters_data = True  # type: ignore[attr-defined]

    def bulk_create(self, *args: Any, **kwargs: Any) -> Any:
        self._note("bulk_create")
        return super().bulk_create(*args, **kwargs)

    def bulk_update(self, *args: Any, **kwargs: Any) -> Any:
        self._note("bulk_update")
        return super().bulk_update(*args, **kwargs)

    def _note(self, method: str) -> None:
        if not settings.DEBUG or self.model in self._noted:
            return
        self._noted.add(self.model)
        logger.warning(
            "%s() of %s sends no signals, so the changes are not published; save the "
            "objects one by one, or call publish() too (said once)",
            method,
            self.model._meta.label,
        )


class PublishesChanges(models.Model):
    """A model that publishes each change of its rows.

    A publication is ``{"event": "created", "model": "chat.message", "pk": 1, "fields":
    {...}}``, or ``"updated"`` or ``"deleted"``. When a change moves a row from one topic
    to another, the old one gets ``"deleted"`` and the new one ``"created"``; topics that
    it stays in get ``"updated"``.

    It is published when the transaction is committed, with the fields at the time of the
    save, and not when it is rolled back. Saving an existing row costs one more query,
    for the topics it was in; with the fields on which topics depend in ``publish_on``,
    saves with other ``update_fields`` cost none.

    Not published, since they send no signals: ``QuerySet.update()``, ``bulk_create()``,
    ``bulk_update()``, raw SQL and triggers of the database. While ``DEBUG`` is on, the
    first three are noted in the log, unless a class has a manager ``objects`` of its own.
    """

    publish_fields: ClassVar[Sequence[str]] = ()
    """Fields to publish, by attribute name; none by default, since most tables hold
    something private."""
    publish_on: ClassVar[Sequence[str] | None] = None
    """Fields on which ``topics()`` depends; None for any."""

    objects = SilentChangesQuerySet.as_manager()

    class Meta:
        abstract = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # Connected for this class alone: with a receiver for all senders Django would
        # load the rows of every model before it deletes them.
        signals.pre_save.connect(_before_save, sender=cls)
        signals.post_save.connect(_after_save, sender=cls)
        signals.pre_delete.connect(_before_delete, sender=cls)
        signals.post_delete.connect(_after_delete, sender=cls)

    def topics(self) -> Iterable[str]:
        """Return the names of the topics that get the changes of this row."""
        raise NotImplementedError(
            f"{type(self).__name__} publishes its changes but has no topics; "
            "define topics(self), which returns their names"
        )

    def publication(self, change: Change) -> Any:
        """Return the data to publish, or None for nothing."""
        fields = {name: getattr(self, name) for name in self.publish_fields}
        return {
            "event": change,
            "model": self._meta.label_lower,
            "pk": self.pk,
            "fields": fields,
        }


@functools.cache
def changes_of(model: type[PublishesChanges]) -> Any:
    """Return the type of what a model publishes, for the schema of a topic.

    ::

        class Room(Topic):
            publication = Draft | changes_of(Message)

    The type has the ``publish_fields``; if the model defines ``publication``, it is the
    annotated return type of that method.
    """
    if model.publication is not PublishesChanges.publication:
        return returned_by(model.publication)
    change = msgspec.defstruct(
        f"{model.__name__}Change",
        [
            ("event", Change),
            ("model", Literal[model._meta.label_lower]),
            ("pk", key_type(model)),
            ("fields", fields_type(model, model.publish_fields)),
        ],
        module=model.__module__,
    )
    change.__doc__ = f"A change of {model._meta.label}."
    return change


def _before_save(
    sender: Any,
    instance: Any,
    raw: bool = False,
    using: str | None = None,
    update_fields: Iterable[str] | None = None,
    **_: Any,
) -> None:
    if raw:
        return
    instance._topics_before = None
    if instance._state.adding or instance.pk is None:
        return
    depends = instance.publish_on
    if (
        update_fields is not None
        and depends is not None
        and not set(update_fields) & set(depends)
    ):
        return
    before = sender._base_manager.using(using).filter(pk=instance.pk).first()
    if before is not None:
        instance._topics_before = list(before.topics())


def _after_save(
    sender: Any,
    instance: Any,
    created: bool = False,
    raw: bool = False,
    using: str | None = None,
    **_: Any,
) -> None:
    if raw:
        return
    now = dict.fromkeys(instance.topics())
    before = instance.__dict__.pop("_topics_before", None)
    if created:
        _publish(instance, now, "created", using)
        return
    known = now if before is None else dict.fromkeys(before)
    _publish(instance, [name for name in known if name not in now], "deleted", using)
    _publish(instance, [name for name in now if name not in known], "created", using)
    _publish(instance, [name for name in now if name in known], "updated", using)


def _before_delete(sender: Any, instance: Any, **_: Any) -> None:
    # Before the delete, since ``topics()`` may read related rows.
    instance._topics_before = list(instance.topics())


def _after_delete(
    sender: Any, instance: Any, using: str | None = None, **_: Any
) -> None:
    _publish(instance, instance.__dict__.pop("_topics_before"), "deleted", using)


def _publish(
    instance: Any, topics: Iterable[str], change: Change, using: str | None
) -> None:
    names = list(topics)
    data = instance.publication(change) if names else None
    if data is not None:
        for name in names:
            publish(name, data, using=using)
