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


def test_a_last_key_that_is_none_is_left_out():
    script = SCRIPTS["publish"]
    values = dict.fromkeys([*script.keys, *script.arguments], "x")

    assert script.parameters(values | {"once": None}, (), ())[0] == 4
    assert script.parameters(values, (), ())[0] == 5


def test_a_packed_start_with_the_other_parameters_is_the_whole_command():
    script = SCRIPTS["publish"]
    values = {name: name.encode() for name in (*script.keys, *script.arguments)}
    left_out = {"once": None, "once_ttl_ms": None, "since_ms": None}
    parameters = script.parameters(values | left_out, (), ())
    whole = hiredis.pack_command(("EVALSHA", script.sha, *parameters))

    first, others = script.arguments[:2], script.arguments[2:5]
    start = script.pack_start(*script.keys[:-1], *first, more=len(others))

    assert start + pack(*others) == whole


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
