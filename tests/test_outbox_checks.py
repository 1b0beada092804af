"""Tests of the system checks of the outbox."""

from __future__ import annotations

from unittest import mock

import pytest

from tiderace.checks.outbox import check_sqlite_transactions


@pytest.fixture
def checked(settings, own_lifespan):
    """Return a function that checks a site with the outbox and one database."""
    settings.INSTALLED_APPS = [*settings.INSTALLED_APPS, "tiderace.outbox"]

    def check(engine, **database):
        database = {"ENGINE": f"django.db.backends.{engine}", "NAME": "x", **database}
        with mock.patch.dict(settings.DATABASES, {"shop": database}, clear=True):
            return list(check_sqlite_transactions(None))

    return check


@pytest.mark.parametrize("options", [{}, {"transaction_mode": "DEFERRED"}])
def test_an_outbox_in_sqlite_whose_transactions_begin_as_readers_is_reported(
    checked, options
):
    [warning] = checked("sqlite3", OPTIONS=options)

    assert warning.id == "tiderace.W031"
    assert "'shop' is in SQLite" in warning.msg
    assert "DATABASES['shop']" in warning.hint


@pytest.mark.parametrize("mode", ["IMMEDIATE", "immediate"])
def test_an_outbox_in_sqlite_with_immediate_transactions_is_not_reported(checked, mode):
    assert checked("sqlite3", OPTIONS={"transaction_mode": mode}) == []


def test_an_outbox_in_another_database_is_not_reported(checked):
    assert checked("postgresql") == []


def test_sqlite_without_an_outbox_is_not_reported(checked, settings):
    settings.INSTALLED_APPS = [
        app for app in settings.INSTALLED_APPS if app != "tiderace.outbox"
    ]

    assert checked("sqlite3") == []
