"""The layer over Redis where its packages are not installed."""

from __future__ import annotations

import sys

import pytest

from tiderace.dotted_path import resolve


@pytest.mark.parametrize("package", ["redis", "hiredis"])
def test_the_error_without_a_package_has_the_pip_command(monkeypatch, package):
    for name in list(sys.modules):
        if name.partition(".")[0] == package or name.startswith(
            "tiderace.layers.redis"
        ):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)

    with pytest.raises(ImportError) as raised:
        resolve("BACKEND", "tiderace.layers.redis.RedisChannelLayer")

    assert f"needs the package {package}" in str(raised.value)
    assert 'pip install "tiderace[redis]"' in str(raised.value)
