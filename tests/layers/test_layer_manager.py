"""Which layers there are: CHANNEL_LAYERS, read late, each layer made once."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from weakref import WeakKeyDictionary

import pytest
from django.core.checks import run_checks
from django.test import override_settings

from tiderace.exceptions import InvalidChannelLayerError
from tiderace.layers import (
    ChannelLayerManager,
    InMemoryChannelLayer,
    channel_layers,
    get_channel_layer,
)
from tiderace.layers.manager import layer_attribute
from tiderace.monitoring import doctor, snapshot

MEMORY = "tiderace.layers.InMemoryChannelLayer"


@pytest.fixture
def manager():
    return ChannelLayerManager()


def configured(**layers):
    return override_settings(CHANNEL_LAYERS=layers)


def test_a_layer_is_made_once_and_kept():
    assert get_channel_layer() is get_channel_layer("default")
    assert isinstance(get_channel_layer(), InMemoryChannelLayer)


def test_an_alias_that_is_not_configured_has_no_layer():
    assert get_channel_layer("elsewhere") is None


@configured()
def test_without_layers_there_is_no_default_layer():
    assert get_channel_layer() is None


def test_without_the_setting_there_is_no_layer(settings):
    del settings.CHANNEL_LAYERS

    assert get_channel_layer() is None


def test_new_settings_make_new_layers():
    before = get_channel_layer()

    with configured(default={"BACKEND": MEMORY, "CONFIG": {"capacity": 3}}):
        assert get_channel_layer().capacity == 3

    assert get_channel_layer() is not before


def test_other_settings_change_no_layer():
    before = get_channel_layer()

    with override_settings(DEBUG=True):
        assert get_channel_layer() is before


def test_emptied_backends_are_made_anew():
    before = get_channel_layer()

    channel_layers.backends.clear()
    assert get_channel_layer() is not before

    channel_layers.backends = {}
    assert get_channel_layer() is not before


def test_the_config_is_passed_to_the_layer(manager):
    with configured(default={"BACKEND": MEMORY, "CONFIG": {"expiry": 7}}):
        assert manager["default"].expiry == 7


def test_a_layer_may_have_a_config_for_tests(manager):
    layers = {
        "BACKEND": MEMORY,
        "CONFIG": {"expiry": 7},
        "TEST_CONFIG": {"expiry": 3},
    }
    with configured(default=layers):
        assert manager.make_test_backend("default").expiry == 3
        assert manager.make_backend("default").expiry == 7


@configured(default={"BACKEND": MEMORY})
def test_a_missing_config_for_tests_is_an_error(manager):
    with pytest.raises(InvalidChannelLayerError, match="No TEST_CONFIG specified for"):
        manager.make_test_backend("default")


@configured(default={"BACKEND": MEMORY, "ROUTING": "project.routing"})
def test_a_routing_of_channels_1_is_refused(manager):
    with pytest.raises(InvalidChannelLayerError, match="ROUTING key found for default"):
        manager["default"]


@configured(default={"CONFIG": {}})
def test_a_missing_backend_is_an_error(manager):
    with pytest.raises(
        InvalidChannelLayerError, match="No BACKEND specified for default"
    ):
        manager["default"]


@pytest.mark.parametrize("path", ["nowhere.Layer", "tiderace.layers.Missing", "bare"])
def test_a_backend_that_cannot_be_imported_is_named(manager, path):
    with (
        configured(default={"BACKEND": path}),
        pytest.raises(
            InvalidChannelLayerError, match=f"Cannot import BACKEND '{path}'"
        ),
    ):
        manager["default"]


@configured(default={"BACKEND": "tiderace.layers.RedisChannelLayer"})
def test_a_wrong_path_to_a_layer_of_tiderace_is_answered_with_the_right_one(manager):
    with pytest.raises(
        InvalidChannelLayerError,
        match=r"did you mean 'tiderace\.layers\.redis\.RedisChannelLayer'\?",
    ):
        manager["default"]


@configured(default={"BACKEND": "test_layer_manager.BrokenLayer"})
def test_an_error_of_a_layers_constructor_is_passed_on():
    with pytest.raises(KeyError, match="in the constructor"):
        get_channel_layer()


class BrokenLayer:
    def __init__(self):
        raise KeyError("in the constructor")


@configured(default={"BACKEND": MEMORY})
def test_the_manager_contains_the_configured_aliases(manager):
    assert "default" in manager
    assert "elsewhere" not in manager


def test_setting_a_layer_returns_the_one_before():
    first, second = object(), object()

    assert channel_layers.set("other", first) is None
    assert channel_layers.set("other", second) is first
    assert channel_layers.backends.pop("other") is second


def test_a_layer_that_was_set_needs_no_configuration():
    layer = object()
    channel_layers.set("other", layer)

    assert get_channel_layer("other") is layer
    del channel_layers.backends["other"]


def test_the_error_of_a_bad_configuration_is_a_value_error():
    assert issubclass(InvalidChannelLayerError, ValueError)


class Closing:
    """A layer that notes that it was closed, and may fail at it."""

    def __init__(self, error=None):
        self.error = error
        self.closed = 0

    async def close(self):
        self.closed += 1
        if self.error is not None:
            raise self.error


async def test_closing_closes_every_layer_that_can_be_closed_and_keeps_it(manager):
    layer = Closing()
    manager.set("one", layer)
    manager.set("of a stranger", object())

    await manager.close()

    assert layer.closed == 1
    assert manager["one"] is layer


async def test_all_layers_are_closed_although_one_fails_to_close(manager):
    failing, other = Closing(ConnectionError("no broker")), Closing()
    manager.set("failing", failing)
    manager.set("other", other)

    with pytest.raises(ExceptionGroup) as raised:
        await manager.close()

    assert raised.value.exceptions == (failing.error,)
    assert other.closed == 1


def run_without_settings(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={"PATH": "", **environment},
        timeout=30,
        check=False,
    )


def test_without_django_settings_there_is_no_layer():
    result = run_without_settings(
        "from tiderace.layers import get_channel_layer; print(get_channel_layer())"
    )

    assert result.stdout.strip() == "None", result.stderr


def test_settings_that_cannot_be_loaded_are_an_error_and_not_no_layer():
    result = run_without_settings(
        "from tiderace.layers import get_channel_layer; print(get_channel_layer())",
        DJANGO_SETTINGS_MODULE="no_such_settings",
    )

    assert result.returncode != 0
    assert "no_such_settings" in result.stderr


# A layer of another project that is a proxy


class LoopProxy:
    """A proxy over one layer for each event loop; outside a loop there is none."""

    layers = WeakKeyDictionary()

    def __getattr__(self, name):
        loop = asyncio.get_running_loop()
        layer = self.layers.setdefault(loop, InMemoryChannelLayer())
        return getattr(layer, name)


PROXY = {"BACKEND": f"{__name__}.LoopProxy"}


@configured(default=PROXY)
def test_a_proxy_outside_a_loop_is_ready_and_checked_and_measured(manager):
    manager["default"]
    layer = get_channel_layer()

    assert manager.why_not_ready() is None
    assert layer_attribute(layer, "stats_here") is None
    assert snapshot.take().counters
    assert not [each for each in run_checks() if each.id.startswith("tiderace.E")]


@configured(default=PROXY)
def test_the_doctor_passes_a_proxy():
    findings = doctor.diagnose(brokers=True)["layer default"]

    assert {finding.level for finding in findings} == {doctor.Level.FINE}


@configured(default=PROXY)
async def test_a_proxy_is_closed_in_its_loop(manager):
    layer = manager["default"]
    await layer.new_channel()

    await manager.close()
