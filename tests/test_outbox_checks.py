"""Tests of the system checks of the outbox."""

from __future__ import annotations

from unittest import mock

import pytest

from tiderace.checks.outbox import (
    check_outbox_is_installed,
    check_sqlite_transactions,
)


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


def test_settings_of_an_outbox_that_is_not_installed_are_reported(settings):
    settings.TIDERACE = {"RELAY_POLL": 1, "DRAIN_SECONDS": 5, "RELAY_IN_SERVERS": False}

    [warning] = check_outbox_is_installed(None)

    assert warning.id == "tiderace.W038"
    assert "RELAY_POLL and RELAY_IN_SERVERS," in warning.msg
    assert '"tiderace.outbox"' in warning.hint


@pytest.mark.parametrize("given", [None, {}, {"DRAIN_SECONDS": 5}, "RELAY_POLL", 5])
def test_other_settings_without_an_outbox_are_not_reported(settings, given):
    settings.TIDERACE = given

    assert list(check_outbox_is_installed(None)) == []


def test_settings_of_an_installed_outbox_are_not_reported(settings, own_lifespan):
    settings.INSTALLED_APPS = [*settings.INSTALLED_APPS, "tiderace.outbox"]
    settings.TIDERACE = {"RELAY_POLL": 1}

    assert list(check_outbox_is_installed(None)) == []
