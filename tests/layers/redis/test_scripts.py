"""The Lua scripts: their parameters have names, and each head lists them."""

from __future__ import annotations

import re

import hiredis
import pytest

from tiderace.layers.redis.scripts import SCRIPTS, pack

TAKE = {"queue": "list", "taken": "set", "lease_ms": 1000}


def test_parameters_are_put_into_the_order_of_the_script():
    given = dict(reversed(TAKE.items()))

    assert SCRIPTS["take"].parameters(given, (), ()) == [2, "list", "set", 1000]


def test_parameters_without_a_name_follow_the_others():
    parameters = SCRIPTS["announce"].parameters({"lease_ms": 5}, ["a", "b"], [1, "x"])

    assert parameters == [2, "a", "b", 5, 1, "x"]


def test_keys_that_are_none_are_left_out():
    script = SCRIPTS["publish"]
    values = {name: name for name in (*script.keys, *script.arguments)}

    unlimited = script.parameters(values | {"bucket": None}, (), ())
    without_both = script.parameters(values | {"bucket": None, "once": None}, (), ())

    assert unlimited[:6] == [5, "stream", "meta", "members", "server", "once"]
    assert without_both[:6] == [4, "stream", "meta", "members", "server", "channel"]
    assert script.parameters(values, (), ())[0] == 6


def test_a_packed_start_with_the_other_parameters_is_the_whole_command():
    script = SCRIPTS["publish"]
    values = {name: name.encode() for name in (*script.keys, *script.arguments)}
    left_out = dict.fromkeys(["once", "once_ttl_ms", "since_ms"])
    parameters = script.parameters(values | left_out, (), ())
    whole = hiredis.pack_command(("EVALSHA", script.sha, *parameters))

    words = script.keys[:5] + script.arguments[:6]
    start = script.pack_start(keys=5, arguments=6)

    assert start + pack(*words) == whole


@pytest.mark.parametrize(
    "values",
    [
        {"queue": "list", "taken": "set"},
        {**TAKE, "channel": "other"},
        {"queue": "list", "taken": "set", "lease": 1},
    ],
    ids=["missing", "additional", "misspelt"],
)
def test_wrong_parameter_names_are_refused_with_the_right_ones(values):
    with pytest.raises(TypeError, match="take takes queue, taken, lease_ms"):
        SCRIPTS["take"].parameters(values, (), ())


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_comments_of_a_script_list_its_parameters(name):
    script = SCRIPTS[name]
    comments = b"\n".join(re.findall(rb"^--.*$", script.text, re.MULTILINE)).decode()

    missing = [
        parameter
        for parameter in (*script.keys, *script.arguments)
        if not re.search(rf"\b{parameter}\b", comments)
    ]

    assert not missing
