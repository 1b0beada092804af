"""The contract that third-party layers derive from: names, capacities, defaults."""

from __future__ import annotations

import re

import pytest

from tiderace.layers import BaseChannelLayer, LocalDelivery

LEGAL = ["a", "Z", "0", "a-b_c.d", ".", "x" * 99]
ILLEGAL = [
    "",
    " ",
    "two words",
    "line\n",
    "a/b",
    "a:b",
    "ann@example.org",
    "caf\u00e9",
    "\u0661",
    "x" * 100,
    "a!b!c",
    "!a",
    None,
    7,
    b"bytes",
    ["a"],
]


@pytest.fixture
def layer():
    return BaseChannelLayer()


# Options


def test_the_defaults_are_those_of_channels(layer):
    assert (layer.expiry, layer.capacity, layer.channel_capacity) == (60, 100, {})


def test_options_may_be_given_in_channels_order():
    layer = BaseChannelLayer(5, 6, {"a": 7})

    assert (layer.expiry, layer.capacity) == (5, 6)


def test_capacities_are_kept_as_given_for_subclasses_that_compile_them_themselves():
    given = {"http.*": 5}

    assert BaseChannelLayer(channel_capacity=given).channel_capacity is given


# Capacities


def test_capacities_are_compiled_in_order(layer):
    pattern = re.compile("^ws")

    compiled = layer.compile_capacities({"http.*": 5, pattern: 6})

    assert [value for _, value in compiled] == [5, 6]
    assert compiled[0][0].match("http.request")
    assert compiled[1][0] is pattern


def test_the_first_matching_capacity_wins():
    layer = BaseChannelLayer(
        capacity=1, channel_capacity={"http.special": 2, "http.*": 3}
    )

    assert layer.get_capacity("http.special") == 2
    assert layer.get_capacity("http.other") == 3
    assert layer.get_capacity("websocket") == 1


def test_a_capacity_pattern_may_match_the_part_after_the_mark():
    layer = BaseChannelLayer(capacity=1, channel_capacity={"specific.*!b*": 2})

    assert layer.get_capacity("specific.x!bob") == 2
    assert layer.get_capacity("specific.x!ann") == 1


def test_capacities_may_have_been_compiled_by_a_subclass(layer):
    layer.channel_capacity = layer.compile_capacities({"http.*": 5})

    assert layer.get_capacity("http.request") == 5
    assert layer.get_capacity("other") == 100


# Names


@pytest.mark.parametrize("name", [*LEGAL, "specific.x!y", "specific!", "a!b-c_d.e"])
def test_a_legal_channel_name_is_true(layer, name):
    assert layer.require_valid_channel_name(name) is True


@pytest.mark.parametrize("name", LEGAL)
def test_a_legal_group_name_is_true(layer, name):
    assert layer.require_valid_group_name(name) is True


@pytest.mark.parametrize("name", [*ILLEGAL, "a!caf\u00e9"])
def test_an_illegal_channel_name_is_a_type_error(layer, name):
    with pytest.raises(TypeError) as refused:
        layer.require_valid_channel_name(name)

    assert str(refused.value) == (
        "Channel name must be a valid unicode string with length < 100 containing "
        "only ASCII alphanumerics, hyphens, underscores, or periods."
    )


@pytest.mark.parametrize("name", [*ILLEGAL, "specific.x!y"])
def test_an_illegal_group_name_is_a_type_error(layer, name):
    with pytest.raises(TypeError) as refused:
        layer.require_valid_group_name(name)

    assert str(refused.value) == layer.invalid_name_error.format("Group")


def test_a_note_on_the_error_names_the_illegal_name_and_the_helper(layer):
    with pytest.raises(TypeError) as refused:
        layer.require_valid_group_name("ann@example.org")

    (note,) = refused.value.__notes__
    assert "'ann@example.org'" in note
    assert "group_name(...)" in note


def test_a_name_to_receive_from_ends_at_its_mark(layer):
    assert layer.require_valid_channel_name("specific.x!", receive=True)

    with pytest.raises(TypeError, match="must end at the !"):
        layer.require_valid_channel_name("specific.x!y", receive=True)


def test_several_names_are_checked_at_once(layer):
    assert layer.valid_channel_names(["a", "b!"], receive=True)

    with pytest.raises(TypeError):
        layer.valid_channel_names(["a", "b c"])


@pytest.mark.parametrize("names", [[], "name", None, ("a",)])
def test_names_that_are_no_list_fail_an_assertion(layer, names):
    with pytest.raises(AssertionError, match="non-empty list"):
        layer.valid_channel_names(names)


def test_the_non_local_part_of_a_name_ends_with_its_mark(layer):
    assert layer.non_local_name("specific.x!y") == "specific.x!"
    assert layer.non_local_name("queue") == "queue"


def test_the_type_and_length_of_a_name_can_be_checked_alone(layer):
    assert layer.match_type_and_length("any text, really")
    assert not layer.match_type_and_length("x" * 100)
    assert not layer.match_type_and_length(None)


@pytest.mark.parametrize(
    ("method", "argument"),
    [("valid_channel_name", "channel_name"), ("valid_group_name", "group_name")],
)
def test_a_deprecated_check_still_checks_and_warns(layer, method, argument):
    with pytest.warns(DeprecationWarning, match=f"{method} is deprecated") as warned:
        assert getattr(layer, method)(**{argument: "room"})
    assert warned[0].filename == __file__

    with pytest.warns(DeprecationWarning, match=method), pytest.raises(TypeError):
        getattr(layer, method)("not a room")


# Methods that a layer implements


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("send", ("queue", {})),
        ("receive", ("queue",)),
        ("new_channel", ()),
        ("flush", ()),
        ("group_add", ("room", "queue")),
        ("group_discard", ("room", "queue")),
        ("group_send", ("room", {})),
    ],
)
async def test_a_method_that_a_layer_lacks_is_not_implemented(layer, method, arguments):
    with pytest.raises(NotImplementedError, match=method):
        await getattr(layer, method)(*arguments)


def test_local_delivery_requires_attach_and_detach():
    class Half(BaseChannelLayer, LocalDelivery):
        def attach(self, channel): ...

    with pytest.raises(TypeError, match="detach"):
        Half()
