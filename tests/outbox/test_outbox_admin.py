"""The admin page of the publications that wait."""

from __future__ import annotations

import pytest
from django.contrib import admin
from django.contrib.auth.models import AnonymousUser
from django.test import RequestFactory
from django.utils import timezone

from tiderace.outbox.models import WaitingPublication


@pytest.fixture
def page(settings, monkeypatch):
    settings.INSTALLED_APPS = [*settings.INSTALLED_APPS, "django.contrib.admin"]
    # It can be imported only where the admin is installed.
    from tiderace.outbox.admin import WaitingPublicationAdmin

    page = WaitingPublicationAdmin(WaitingPublication, admin.AdminSite())
    monkeypatch.setattr(
        page, "message_user", lambda request, text: page.told.append(text)
    )
    page.told = []
    return page


@pytest.fixture
def rows(sqlite):
    """A row that waits, and one that is set aside."""
    rows = WaitingPublication.objects.using(sqlite)
    rows.create(topic="board:a", data="1")
    rows.create(
        topic="board:b", data="2", failed=timezone.now(), error="TypeError: no JSON"
    )
    return rows


def test_the_list_shows_topic_data_and_error(page, rows):
    shown = [
        (row.topic, page.shown_data(row), page.shown_error(row)) for row in rows.all()
    ]

    assert shown == [("board:a", "1", ""), ("board:b", "2", "TypeError: no JSON")]


def test_rows_that_are_set_aside_can_be_tried_again(page, rows):
    page.try_again(RequestFactory().get("/"), rows.all())

    assert page.told == ["1 will be tried again."]
    assert not rows.exclude(failed=None).exists()
    assert not rows.exclude(error=None).exists()


@pytest.mark.parametrize(
    ("state", "topics"),
    [(None, ["board:a", "board:b"]), ("waiting", ["board:a"]), ("failed", ["board:b"])],
)
def test_the_list_can_be_filtered_by_state(page, rows, state, topics):
    (filter_class,) = page.list_filter
    request = RequestFactory().get("/")
    chosen = {} if state is None else {"state": [state]}
    state_filter = filter_class(request, chosen, WaitingPublication, page)

    found = state_filter.queryset(request, rows.all())

    assert [row.topic for row in found] == topics


def test_no_row_can_be_added_or_changed(page):
    request = RequestFactory().get("/")
    request.user = AnonymousUser()

    assert not page.has_add_permission(request)
    assert set(page.get_readonly_fields(request)) == {
        field.name for field in WaitingPublication._meta.fields
    }
