"""Tests of the system checks of channel layers over a database."""

from __future__ import annotations

import os

import pytest
from django.db.backends.sqlite3 import base

from support.servers.postgresql import database_alias
from tiderace.checks.database import check_database_layers
from tiderace.layers.database.sqlite import places


@pytest.fixture
def check(settings):
    """Return a function that checks a layer over a site's database."""

    def check(engine="sqlite3", name=":memory:", **options):
        settings.CHANNEL_LAYERS = {
            "default": {
                "BACKEND": "tiderace.layers.database.DatabaseChannelLayer",
                "CONFIG": {"using": "shop", **options},
            }
        }
        database = {"ENGINE": f"django.db.backends.{engine}", "NAME": name}
        with database_alias("shop", database):
            return list(check_database_layers(None))

    return check


def test_a_file_beside_that_of_the_site_is_not_reported(check, tmp_path):
    assert check(name=tmp_path / "site.sqlite3") == []


def test_a_layer_in_memory_is_none_over_a_database(check, settings):
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": "tiderace.layers.InMemoryChannelLayer"}
    }

    assert list(check_database_layers(None)) == []


def test_a_database_in_memory_is_reported(check):
    [warning] = check()

    assert warning.id == "tiderace.W035"
    assert "'shop'" in warning.msg
    assert "option 'path'" in warning.hint


def test_a_file_beside_a_database_in_memory_is_not_reported(check, tmp_path):
    assert check(path=str(tmp_path / "layer.sqlite3")) == []


def test_an_alias_that_does_not_exist_is_left_to_the_check_of_the_options(check):
    assert check(using="shops") == []


def test_a_database_of_another_vendor_is_refused_with_the_choices(check, monkeypatch):
    monkeypatch.setattr(base.DatabaseWrapper, "vendor", "mysql")

    [error] = check()

    assert error.id == "tiderace.E032"
    assert "cannot use the database 'shop', of the vendor 'mysql'" in error.msg
    assert "its option 'path'" in error.msg
    assert "RedisChannelLayer" in error.msg


def test_postgresql_without_the_app_of_the_tables_is_reported(check):
    [error] = check("postgresql", name="shop")

    assert error.id == "tiderace.E032"
    assert '"tiderace.layers.database" to INSTALLED_APPS' in error.hint
    assert "migrate --database=shop" in error.hint


def test_a_folder_that_does_not_exist_is_reported(check, tmp_path):
    [error] = check(path=tmp_path / "missing" / "layer.sqlite3")

    assert error.id == "tiderace.E033"
    assert f"its folder {tmp_path / 'missing'} does not exist; create it" in error.msg
    assert '"CONFIG": {"path": ' in error.hint


def test_a_folder_in_place_of_the_file_is_reported(check, tmp_path):
    [error] = check(path=tmp_path)

    assert "it is a folder" in error.msg


def test_a_folder_that_may_not_be_written_is_reported(check, tmp_path, monkeypatch):
    # Root may write everywhere, whatever the mode.
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)

    [error] = check(path=tmp_path / "layer.sqlite3")

    assert error.id == "tiderace.E033"
    assert f"its folder {tmp_path} is not writable for this user" in error.msg


def test_a_file_that_may_not_be_written_is_reported(check, tmp_path, monkeypatch):
    file = tmp_path / "layer.sqlite3"
    file.touch()
    monkeypatch.setattr(os, "access", lambda path, mode: path != file)

    [error] = check(path=file)

    assert error.id == "tiderace.E033"
    assert "it is not readable and writable for this user" in error.msg


@pytest.fixture
def mount(tmp_path, monkeypatch):
    """Return a function that lets ``tmp_path/"my files"`` be on a file system."""
    (tmp_path / "my files").mkdir()

    def mount(kind):
        mounts = tmp_path / "mountinfo"
        escaped = str(tmp_path / "my files").replace(" ", "\\040")
        mounts.write_text(
            "22 27 0:21 / / rw,relatime - ext4 /dev/vda rw\n"
            f"23 27 0:22 / {escaped} rw - {kind} server:/files rw\n"
            f"24 27 0:23 / {escaped}/else rw shared:1 - ext4 /dev/vdb rw\n"
        )
        monkeypatch.setattr(places, "_MOUNTS", mounts)
        return tmp_path / "my files" / "layer.sqlite3"

    return mount


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "ceph"])
def test_a_file_on_a_network_file_system_is_reported(check, mount, kind):
    [warning] = check(path=mount(kind))

    assert warning.id == "tiderace.W034"
    assert f"on a network file system ({kind})" in warning.msg


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "zfs", "overlay", "tmpfs"])
def test_a_file_on_a_local_disk_is_not_reported(check, mount, kind):
    assert check(path=mount(kind)) == []


def test_a_system_without_a_list_of_mounts_is_not_reported(
    check, tmp_path, monkeypatch
):
    monkeypatch.setattr(places, "_MOUNTS", tmp_path / "missing")

    assert check(path=tmp_path / "layer.sqlite3") == []
