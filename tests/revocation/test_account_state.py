"""The state of users and sessions, and the reasons that follow from a change."""

from __future__ import annotations

import itertools

import pytest
from django.contrib.auth.models import Group, Permission, User
from django.contrib.sessions.models import Session
from django.utils import timezone

from support.sessions import session_of
from tiderace.revocation.account_state import (
    AccountState,
    Reason,
    look_up,
    session_reference,
)
from tiderace.revocation.watcher import announcement

WAS = AccountState("hash", True, (False, False), b"rights")


@pytest.mark.parametrize(
    ("now", "reason"),
    [
        (WAS, None),
        (None, Reason.DELETED),
        (AccountState("hash", False, (False, False), b"rights"), Reason.DEACTIVATED),
        (
            AccountState("other", True, (False, False), b"rights"),
            Reason.PASSWORD_CHANGED,
        ),
        (
            AccountState("hash", True, (True, False), b"rights"),
            Reason.PERMISSIONS_CHANGED,
        ),
        (
            AccountState("hash", True, (False, True), b"rights"),
            Reason.PERMISSIONS_CHANGED,
        ),
        (
            AccountState("hash", True, (False, False), b"other"),
            Reason.PERMISSIONS_CHANGED,
        ),
        (AccountState("other", False, (True, True), b"other"), Reason.DEACTIVATED),
        (AccountState("other", True, (True, True), b"other"), Reason.PASSWORD_CHANGED),
    ],
)
def test_the_gravest_change_is_the_reason(now, reason):
    assert WAS.change_to(now) is reason


def test_permissions_that_were_never_looked_up_have_not_changed():
    assert AccountState("hash", True, (False, False)).change_to(WAS) is None


def test_a_user_that_was_inactive_at_the_handshake_has_not_been_deactivated():
    inactive = AccountState("hash", False, (False, False))

    assert inactive.change_to(inactive) is None


def test_changed_permissions_are_the_only_reason_that_is_not_final():
    assert [reason for reason in Reason if not reason.final] == [
        Reason.PERMISSIONS_CHANGED
    ]


# The look-up


def state_of(user):
    return look_up([str(user.pk)], []).users[str(user.pk)][1]


def test_users_are_looked_up_together(db, django_assert_num_queries):
    users = [User.objects.create_user(f"user{number}") for number in range(20)]
    group = Group.objects.create(name="staff")
    for each in users[::2]:
        each.groups.add(group)

    with django_assert_num_queries(4):
        found = look_up([str(each.pk) for each in users] + ["999999"], [])

    assert found.users.keys() == {str(each.pk) for each in users}


def test_changes_of_permissions_change_the_account_state(user):
    group = Group.objects.create(name="staff")
    seen = [state_of(user)]
    for change in (
        lambda: user.user_permissions.add(Permission.objects.first()),
        lambda: user.groups.add(group),
        lambda: group.permissions.add(Permission.objects.last()),
        lambda: group.permissions.clear(),
        lambda: User.objects.update(is_staff=True),
    ):
        change()
        seen.append(state_of(user))

    reasons = [a.change_to(b) for a, b in itertools.pairwise(seen)]
    assert reasons == [Reason.PERMISSIONS_CHANGED] * 5
    assert seen[4].rights == seen[2].rights


def test_changes_without_influence_on_permissions_keep_the_account_state(user):
    before = state_of(user)
    User.objects.update(first_name="Ada", last_login=timezone.now())
    Group.objects.create(name="others").permissions.add(Permission.objects.first())

    assert before.change_to(state_of(user)) is None


def test_a_user_model_without_permissions_is_looked_up(user, monkeypatch):
    from django.core.exceptions import FieldDoesNotExist

    known = User._meta.get_field

    def without_rights(name):
        if name in ("groups", "user_permissions"):
            raise FieldDoesNotExist(name)
        return known(name)

    monkeypatch.setattr(User._meta, "get_field", without_rights)

    assert state_of(user).active


def test_sessions_of_the_database_are_looked_up_with_their_ends(
    user, django_assert_num_queries
):
    keys = [session_of(user) for _ in range(3)]
    ends = timezone.now() + timezone.timedelta(seconds=60)
    Session.objects.filter(pk=keys[0]).update(expire_date=ends)
    Session.objects.filter(pk=keys[1]).delete()

    with django_assert_num_queries(1):
        found = look_up([], keys).sessions

    assert found.keys() == {keys[0], keys[2]}
    assert found[keys[0]] == ends.timestamp()


def test_sessions_of_other_engines_are_asked_for_one_by_one(db, settings):
    settings.SESSION_ENGINE = "django.contrib.sessions.backends.cache"
    from django.contrib.sessions.backends.cache import SessionStore as CacheStore

    session = CacheStore()
    session.save()

    found = look_up([], [session.session_key, "gone"]).sessions

    assert found == {session.session_key: None}


def test_a_session_in_a_cookie_is_taken_to_exist(db, settings):
    settings.SESSION_ENGINE = "django.contrib.sessions.backends.signed_cookies"

    assert look_up([], ["cookie"]).sessions == {"cookie": None}


def test_the_reference_of_a_session_does_not_contain_its_key():
    assert session_reference("key") == session_reference("key")
    assert session_reference("key") != session_reference("kez")
    assert "key" not in str(announcement(sessions=["key"]))
