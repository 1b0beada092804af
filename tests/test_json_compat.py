"""Tests of the JSON encoder against ``json.dumps``."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import enum
import json
import math
import uuid
from collections import OrderedDict, defaultdict, namedtuple
from decimal import Decimal

import numpy
import pytest
from django.http import QueryDict
from django.utils.safestring import mark_safe
from django.utils.translation import gettext_lazy
from hypothesis import given
from hypothesis import strategies as st

from tiderace import json_compat
from tiderace.json_compat import dumps, loads, require_depth, to_json


class Celsius(float):
    pass


class Payload(bytes):
    pass


class Level(enum.IntEnum):
    HIGH = 3


class Size(enum.Enum):
    SMALL = "small"


@dataclasses.dataclass
class Point:
    x: int


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    # Within this range both write floats without an exponent.
    | st.floats(min_value=1e-4, max_value=1e15),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(plain)
def test_values_of_json_are_encoded_as_by_json(content):
    assert dumps(content) == json.dumps(content)


@pytest.mark.parametrize(
    "content",
    [
        {"a": None, "text": "NaN"},
        {None: 1, True: 2, 3: 4, 1.5: 6},
        "\ud800",
        {"text": "größer \u2028 \x7f"},
        (1, 2),
        {"large": 10**30},
        {},
    ],
)
def test_corner_cases_are_encoded_as_by_json(content):
    assert dumps(content) == json.dumps(content)


@pytest.mark.parametrize("beside", ["ascii", "größer", "\ud800", "Infinity", None])
def test_nan_and_infinity_are_null(beside):
    content = {"v": math.nan, "w": [math.inf, -math.inf, beside]}

    assert dumps(content) == json.dumps({"v": None, "w": [None, None, beside]})
    assert json.loads(to_json(content))["w"][:2] == [None, None]


@pytest.mark.parametrize("beside", ["plain", "half \ud83d"])
def test_to_json_keeps_all_values_of_a_query_dict(beside):
    content = {"query": QueryDict("n=1&n=2"), "big": 2**70, "beside": beside}

    assert json.loads(to_json(content))["query"] == {"n": ["1", "2"]}


class Shouting(list):
    def __iter__(self):
        return (each.upper() for each in super().__iter__())


@pytest.mark.parametrize(
    "content",
    [
        QueryDict("room=tea&n=1&n=2"),
        {"data": [{"query": QueryDict("n=1&n=2")}]},
        [Shouting(["a"])],
        {"in order": OrderedDict(a=1), "by default": defaultdict(list, b=[2])},
        [namedtuple("Point", "x y")(1, 2)],
    ],
)
def test_a_container_is_encoded_as_the_list_of_its_items(content):
    assert dumps(content) == json.dumps(content)


def test_an_exponent_encodes_the_same_number():
    assert json.loads(dumps([1e300, 1e-300])) == [1e300, 1e-300]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (uuid.UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
        (Decimal("1.20"), '"1.20"'),
        (datetime.date(2026, 1, 2), '"2026-01-02"'),
        (
            datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC),
            '"2026-01-02T03:04:05Z"',
        ),
        (mark_safe("<b>"), '"<b>"'),
        ({"label": gettext_lazy("Save")}, '{"label": "Save"}'),
        ({gettext_lazy("Save"): 1}, '{"Save": 1}'),
        (Celsius(1.5), "1.5"),
        (Celsius("nan"), "null"),
        (Payload(b"x"), '"eA=="'),
        (Level.HIGH, "3"),
        (Size.SMALL, '"small"'),
        (numpy.float64(1.5), "1.5"),
        (numpy.float32(1.5), "1.5"),
        (numpy.int64(3), "3"),
        (numpy.bool_(True), "true"),
        (numpy.str_("x"), '"x"'),
        ({numpy.str_("x"): {mark_safe("y")}}, '{"x": ["y"]}'),
        (datetime.time(1, 2, 3, 456789), '"01:02:03.456789"'),
        (datetime.timedelta(seconds=90), '"PT90S"'),
        (Point(numpy.int64(1)), '{"x": 1}'),
    ],
)
@pytest.mark.parametrize("beside", ["ascii", "größer", "\ud800", 2**64])
def test_types_of_django_projects_are_encoded_the_same_beside_any_value(
    content, text, beside
):
    assert dumps([content, beside]) == f"[{text}, {json.dumps(beside)}]"
    assert json.loads(to_json([content, beside]))[0] == json.loads(text)


def test_an_array_is_refused():
    with pytest.raises(TypeError, match="ndarray is not plain data"):
        dumps(numpy.arange(3))


def test_a_value_without_json_is_refused():
    with pytest.raises(TypeError):
        dumps({"user": object()})


def test_a_value_that_contains_itself_is_refused():
    circle: list[object] = []
    circle.append(circle)

    with pytest.raises((ValueError, RecursionError)):
        dumps(circle)


def _deeper(calls, function, *args):
    return _deeper(calls - 1, function, *args) if calls else function(*args)


def test_json_that_is_accepted_can_be_read_and_written_by_deeper_code():
    accepted = []
    for depth in range(10, 1000, 10):
        with contextlib.suppress(ValueError):
            accepted.append(loads(b"[" * depth + b"]" * depth))

    assert len(accepted) > 50
    assert _deeper(150, json.loads, _deeper(150, dumps, accepted[-1]))


@pytest.mark.parametrize(
    "text",
    [
        "[" * 512 + "]" * 512,
        '["[",' * 256 + '{"}":' * 256 + "0" + "}" * 256 + "]" * 256,
    ],
)
def test_json_of_512_levels_is_accepted(text):
    require_depth(text)
    require_depth(text.encode())
    assert loads(text.encode()) == json.loads(text)


@pytest.mark.parametrize(
    "text",
    ["[" * 513 + "]" * 513, "[" * 9000 + "]" * 9000, '{"]":' * 513 + "0" + "}" * 513],
)
def test_json_of_more_levels_is_refused(text):
    for each in (text, text.encode()):
        with pytest.raises(ValueError, match="it is nested too deeply"):
            require_depth(each)
    with pytest.raises(ValueError, match="it is nested too deeply"):
        loads(text.encode())


def depth_of(value):
    """Return how many lists and dicts are around the deepest value."""
    if not isinstance(value, dict | list):
        return 0
    inner = value.values() if isinstance(value, dict) else value
    return 1 + max(map(depth_of, inner), default=0)


TEXT = st.text('[]{}"\\a', max_size=3)
NESTED = st.recursive(
    TEXT,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3)
    ),
    max_leaves=40,
)


@given(NESTED)
def test_the_depth_of_any_json_is_exact(value):
    text = json.dumps(value)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_compat, "_MAX_DEPTH", 3)
        patch.setattr(json_compat, "_ROUNDS", 2)
        refused = False
        try:
            require_depth(text)
        except ValueError:
            refused = True

    assert refused == (depth_of(value) > 3)


def test_many_brackets_beside_each_other_are_not_deep():
    assert loads(b"[" + b",".join([b"[]"] * 5000) + b"]") == [[]] * 5000
