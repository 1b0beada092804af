"""Tests of the settings."""

from __future__ import annotations

import subprocess
import sys

import pytest
from django.conf import settings
from django.test import override_settings

from tiderace import conf
from tiderace.conf import Settings, UnknownSetting, nearest, validate


def test_without_a_dict_the_defaults_apply():
    assert conf.current() == Settings()


@override_settings(TIDERACE={"SYNC_THREADS": 3, "DROP_LOG_INTERVAL": 5})
def test_the_dict_in_djangos_settings_applies():
    assert conf.current().sync_threads == 3
    assert conf.current().drop_log_interval == 5.0


def test_changed_settings_are_read_again():
    with override_settings(TIDERACE={"CONCURRENT_HANDLERS": 2}):
        assert conf.current().concurrent_handlers == 2

    assert conf.current().concurrent_handlers == 16


@override_settings()
def test_a_dict_that_is_set_later_applies():
    assert conf.current().concurrent_handlers == 16

    settings.TIDERACE = {"CONCURRENT_HANDLERS": 2}

    assert conf.current().concurrent_handlers == 2


@override_settings(TIDERACE={"CONCURRENT_HANDLERS": 2})
def test_the_same_dict_is_checked_once():
    assert conf.current() is conf.current()


def test_the_error_for_an_unknown_key_lists_the_nearest_and_all_keys():
    with pytest.raises(UnknownSetting) as refused:
        validate({"SYNC_THREAD": 3})

    text = str(refused.value)
    assert "TIDERACE has no setting 'SYNC_THREAD'" in text
    assert "did you mean 'SYNC_THREADS'" in text
    assert "CONCURRENT_HANDLERS" in text


def test_the_error_for_an_unknown_key_of_topics_lists_the_nearest_and_all_keys():
    with pytest.raises(UnknownSetting) as refused:
        validate({"TOPICS": {"ANONYMUS": False}})

    text = str(refused.value)
    assert "TIDERACE['TOPICS'] has no setting 'ANONYMUS'" in text
    assert "did you mean 'ANONYMOUS'" in text
    assert "SUBSCRIPTIONS" in text


def test_topics_that_are_not_a_dict_are_refused():
    with pytest.raises(UnknownSetting, match=r"TIDERACE\['TOPICS'\] is a list"):
        validate({"TOPICS": ["ANONYMOUS"]})


def test_a_lower_case_key_is_unknown():
    with pytest.raises(UnknownSetting, match="no setting 'sync_threads'"):
        validate({"sync_threads": 3})


def test_a_key_that_is_not_a_string_is_unknown():
    with pytest.raises(UnknownSetting, match="no setting 7"):
        validate({7: 3})


@pytest.mark.parametrize("value", ["many", 1.5, True, [1]])
def test_the_error_for_a_wrong_type_names_the_key(value):
    with pytest.raises(UnknownSetting, match="SYNC_THREADS"):
        validate({"SYNC_THREADS": value})


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (
            {"SYNC_THREADS": "five"},
            "TIDERACE['SYNC_THREADS'] is 'five': expected int | None, got str",
        ),
        (
            {"TOPICS": {"PING": "25"}},
            "TIDERACE['TOPICS']['PING'] is '25': expected float, got str",
        ),
        (
            {"TRUSTED_PROXIES": ["10.0.0.0/8", 7]},
            "TIDERACE['TRUSTED_PROXIES'][1] is 7: expected str, got int",
        ),
        (
            {"TOPICS": {"USERS": "token"}},
            "TIDERACE['TOPICS']['USERS'] is 'token': invalid enum value 'token'",
        ),
    ],
)
def test_the_error_for_a_wrong_value_names_the_setting_and_the_value(values, text):
    with pytest.raises(UnknownSetting) as refused:
        validate(values)

    assert str(refused.value) == text


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (
            {"TOPICS": {"API_KEYS": "the-secret-of-the-site"}},
            "TIDERACE['TOPICS']['API_KEYS']: expected list, got str",
        ),
        (
            {"TOKEN_KEYS": [{"key": "the-secret-of-the-site"}]},
            "TIDERACE['TOKEN_KEYS'][0]: object missing required field algorithm",
        ),
    ],
)
def test_the_error_for_a_wrong_key_does_not_show_it(values, text):
    with pytest.raises(UnknownSetting) as refused:
        validate(values)

    assert str(refused.value) == text


@pytest.mark.parametrize("key", ["SYNC_THREADS", "CONCURRENT_HANDLERS"])
@pytest.mark.parametrize("value", [0, -1])
def test_a_number_out_of_range_is_refused(key, value):
    with pytest.raises(UnknownSetting, match=rf"\['{key}'\] is {value}; use 1 or more"):
        validate({key: value})


@pytest.mark.parametrize("value", [["SYNC_THREADS"], 5, "SYNC_THREADS"])
def test_a_setting_that_is_not_a_dict_is_refused(value):
    with pytest.raises(UnknownSetting, match="make it a dict"):
        validate(value)


def test_settings_cannot_be_changed():
    with pytest.raises(AttributeError):
        conf.current().sync_threads = 3


def test_no_name_is_suggested_where_none_is_near():
    assert nearest("elephant", ["mouse"]) == ""


def test_an_unknown_setting_is_a_value_error():
    assert issubclass(UnknownSetting, ValueError)


def run(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={"PATH": "", **environment},
        timeout=30,
        check=False,
    )


def test_without_django_settings_the_defaults_apply():
    result = run("from tiderace import conf; print(conf.current().concurrent_handlers)")

    assert result.stdout.strip() == "16", result.stderr


def test_lazy_settings_are_loaded(tmp_path):
    (tmp_path / "late_settings.py").write_text("TIDERACE = {'CONCURRENT_HANDLERS': 5}")

    result = run(
        "from tiderace import conf; print(conf.current().concurrent_handlers)",
        DJANGO_SETTINGS_MODULE="late_settings",
        PYTHONPATH=str(tmp_path),
    )

    assert result.stdout.strip() == "5", result.stderr


@pytest.mark.parametrize(
    "key", ["PRESENCE_TTL", "PRESENCE_REFRESH", "PRESENCE_LEASE", "PRESENCE_PUSHES"]
)
def test_presence_refuses_negative_numbers(key):
    with pytest.raises(UnknownSetting, match=f"{key}'] is -1"):
        validate({key: -1})


@pytest.mark.parametrize("key", ["PRESENCE_TTL", "PRESENCE_REFRESH", "PRESENCE_LEASE"])
def test_presence_refuses_a_duration_of_zero(key):
    with pytest.raises(UnknownSetting, match=f"{key}'] is 0"):
        validate({key: 0})


def test_presence_pushes_can_be_unlimited():
    assert validate({"PRESENCE_PUSHES": 0}).presence_pushes == 0


def test_the_presence_ttl_is_at_least_two_refreshes():
    assert validate({"PRESENCE_TTL": 50}).presence_ttl == 50
    with pytest.raises(UnknownSetting, match="PRESENCE_REFRESH") as refused:
        validate({"PRESENCE_TTL": 40})
    assert "is 40" in str(refused.value)


def test_the_error_for_a_misspelt_presence_setting_suggests_the_right_one():
    with pytest.raises(UnknownSetting, match="did you mean 'PRESENCE_REFRESH'"):
        validate({"PRESENCE_REFRSH": 10})
