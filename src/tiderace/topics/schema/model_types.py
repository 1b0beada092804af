"""The types of models' fields as JSON has them."""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections.abc import Iterable
from typing import Any, Literal, Optional

import msgspec
from django.db import models

# By class, the more special ones first.
_TYPES: tuple[tuple[type[models.Field[Any, Any]], Any], ...] = (
    (models.BooleanField, bool),
    (models.FloatField, float),
    (models.IntegerField, int),
    (models.DecimalField, decimal.Decimal),
    (models.DateTimeField, datetime.datetime),
    (models.DateField, datetime.date),
    (models.TimeField, datetime.time),
    (models.DurationField, datetime.timedelta),
    (models.UUIDField, uuid.UUID),
    (models.CharField, str),
    (models.TextField, str),
    (models.GenericIPAddressField, str),
)


def fields_type(model: type[models.Model], names: Iterable[str]) -> type[Any]:
    """Return the type of an object with some fields of a model, by attribute name."""
    fields = [(name, _type_of(model, name)) for name in names]
    return msgspec.defstruct(f"{model.__name__}Fields", fields, module=model.__module__)


def key_type(model: type[models.Model]) -> Any:
    """Return the type of a model's primary key."""
    return _type_of(model, model._meta.pk.attname)  # noqa: SLF001 (public in Django)


def _type_of(model: type[models.Model], name: str) -> Any:
    for field in model._meta.concrete_fields:  # noqa: SLF001 (public in Django)
        if field.attname == name:
            kind = _choices_of(field) or _plain_type(field)
            return Optional[kind] if field.null else kind  # noqa: UP045 (a value)
    return Any  # a property


def _choices_of(field: models.Field[Any, Any]) -> Any:
    values = tuple(value for value, _ in field.flatchoices)
    if not values or any(type(value) not in (str, int) for value in values):
        return None
    return Literal[(*values, "") if field.blank and "" not in values else values]


def _plain_type(field: models.Field[Any, Any]) -> Any:
    while isinstance(field, models.ForeignKey):
        field = field.target_field
    return next((kind for of, kind in _TYPES if isinstance(field, of)), Any)
