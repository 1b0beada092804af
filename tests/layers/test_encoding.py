"""The encoding: values of Django projects arrive, unsupported ones are refused."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import enum
import uuid
from decimal import Decimal

import numpy
import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.http import QueryDict
from django.utils.functional import lazystr
from django.utils.safestring import mark_safe
from hypothesis import given
from hypothesis import strategies as st

from tiderace.layers.encoding import decode, encode

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


class Size(enum.Enum):
    SMALL = "small"


class Level(enum.IntEnum):
    HIGH = 3


class Name(str):
    __slots__ = ()


class Count(int):
    pass


class Celsius(float):
    pass


class Payload(bytes):
    pass


@dataclasses.dataclass
class Point:
    x: int
    y: int


Pair = collections.namedtuple("Pair", "a b")

UTC = datetime.UTC
BERLIN_WINTER = datetime.timezone(datetime.timedelta(hours=1))


def carried(value):
    """Return what arrives for a value in a message."""
    return decode(encode({"type": "carry", "value": value}))["value"]


@given(message=st.dictionaries(st.text(), PLAIN))
def test_plain_data_arrives_unchanged(message):
    assert decode(encode(message)) == message


@pytest.mark.parametrize(
    ("sent", "arrives"),
    [
        pytest.param((1, (2,)), [1, [2]], id="tuple"),
        pytest.param({1}, [1], id="set"),
        pytest.param(frozenset({1}), [1], id="frozenset"),
        pytest.param(Pair(1, 2), [1, 2], id="named tuple"),
        pytest.param(bytearray(b"x"), b"x", id="bytearray"),
        pytest.param(memoryview(b"x"), b"x", id="memoryview"),
        pytest.param(uuid.UUID(int=1), str(uuid.UUID(int=1)), id="UUID"),
        pytest.param(Decimal("1.50"), "1.50", id="Decimal"),
        pytest.param(datetime.date(2024, 2, 29), "2024-02-29", id="date"),
        pytest.param(datetime.time(12, 30), "12:30:00", id="time"),
        pytest.param(
            datetime.datetime(2024, 2, 29, 12), "2024-02-29T12:00:00", id="naive"
        ),
        pytest.param(Size.SMALL, "small", id="enum"),
        pytest.param(Level.HIGH, 3, id="int enum"),
        pytest.param(Name("ann"), "ann", id="str subclass"),
        pytest.param(Count(3), 3, id="int subclass"),
        pytest.param(Celsius(1.5), 1.5, id="float subclass"),
        pytest.param(Payload(b"x"), b"x", id="bytes subclass"),
        pytest.param(numpy.float64(1.5), 1.5, id="NumPy float64"),
        pytest.param(numpy.float32(1.5), 1.5, id="NumPy float32"),
        pytest.param(numpy.longdouble(1.5), 1.5, id="NumPy longdouble"),
        pytest.param(numpy.int64(3), 3, id="NumPy int64"),
        pytest.param(numpy.bool_(True), True, id="NumPy bool"),
        pytest.param(numpy.str_("x"), "x", id="NumPy str"),
        pytest.param(numpy.bytes_(b"x"), b"x", id="NumPy bytes"),
        pytest.param(mark_safe("<b>"), "<b>", id="safe text"),
        pytest.param(lazystr("later"), "later", id="lazy text"),
        pytest.param(Point(1, 2), {"x": 1, "y": 2}, id="dataclass"),
        pytest.param(QueryDict("a=1&a=2"), {"a": ["1", "2"]}, id="QueryDict"),
        pytest.param(collections.OrderedDict(a=1), {"a": 1}, id="OrderedDict"),
        pytest.param(
            collections.ChainMap({"a": 1}), {"a": 1}, id="mapping that is no dict"
        ),
        pytest.param({1: "one"}, {1: "one"}, id="int keys"),
        pytest.param("half \ud83d emoji", "half \ufffd emoji", id="lone surrogate"),
        pytest.param({"\udc00": ["\ud800"]}, {"\ufffd": ["\ufffd"]}, id="in a key"),
        pytest.param(
            {"query": QueryDict("a=1&a=2"), "cut": "\ud83d"},
            {"query": {"a": ["1", "2"]}, "cut": "\ufffd"},
            id="QueryDict beside a lone surrogate",
        ),
        pytest.param(
            {(1, "\ud83d"): 1}, {(1, "\ufffd"): 1}, id="in a tuple that is a key"
        ),
        pytest.param(Point("\ud83d", 2), {"x": "\ufffd", "y": 2}, id="in a dataclass"),
        pytest.param({mark_safe("a"): 1}, {"a": 1}, id="safe text as key"),
        pytest.param({lazystr("a"): 1}, {"a": 1}, id="lazy text as key"),
        pytest.param({Size.SMALL: 1}, {"small": 1}, id="enum as key"),
        pytest.param({Celsius(1.5): 1}, {1.5: 1}, id="float subclass as key"),
        pytest.param({numpy.int64(1): 1}, {1: 1}, id="NumPy int64 as key"),
    ],
)
def test_other_values_arrive_as_plain_data(sent, arrives):
    received = carried(sent)

    assert received == arrives
    assert type(received) is type(arrives)


@pytest.mark.parametrize("number", [float("nan"), Celsius("nan"), float("-inf")])
def test_nan_and_infinity_arrive_between_processes(number):
    assert repr(carried(number)) == repr(float(number))


def test_an_aware_datetime_arrives_as_the_same_moment_in_utc():
    received = carried(datetime.datetime(2024, 2, 29, 12, tzinfo=BERLIN_WINTER))

    assert received == datetime.datetime(2024, 2, 29, 11, tzinfo=UTC)
    assert received.tzinfo is UTC


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(object(), id="object"),
        pytest.param(User(username="ann"), id="model instance"),
        pytest.param(AnonymousUser(), id="anonymous user"),
        pytest.param(User.objects.none(), id="queryset"),
        pytest.param(User, id="class"),
        pytest.param(len, id="function"),
        pytest.param(numpy.arange(3), id="NumPy array"),
        pytest.param((n for n in range(3)), id="generator"),
        pytest.param({}.keys(), id="keys of a dict"),
        pytest.param(ValueError("no"), id="exception"),
        pytest.param(2**64, id="int beyond 64 bits"),
        pytest.param(
            datetime.datetime.max.replace(
                tzinfo=datetime.timezone(datetime.timedelta(hours=-1))
            ),
            id="moment after the end of time",
        ),
    ],
)
def test_the_error_for_an_unsupported_value_contains_its_place(value):
    with pytest.raises(TypeError) as refused:
        encode({"type": "carry", "in": {"here": [0, value]}})

    with pytest.raises(TypeError, match=r"message\['value'\] is a"):
        encode({"a lone surrogate": "\ud83d", "value": value})

    text = str(refused.value)
    assert "message['in']['here'][1]" in text
    assert f"is a {type(value).__qualname__}" in text
    assert "primary key" in text


def test_the_error_for_an_unsupported_key_contains_its_place():
    with pytest.raises(TypeError, match=r"a key of message\['in'\] is a object"):
        encode({"type": "carry", "in": {object(): 1}})


def test_the_error_names_the_first_of_several_unsupported_values():
    with pytest.raises(TypeError, match=r"message\['b'\]"):
        encode({"a": 1, "b": object(), "c": object()})


def test_the_error_for_a_value_in_a_set_names_the_set():
    with pytest.raises(TypeError, match=r"message\['all'\] is a set"):
        encode({"all": {object()}})


def test_a_message_that_contains_itself_is_refused():
    message: dict[str, object] = {"type": "carry"}
    message["self"] = message

    with pytest.raises(TypeError, match="contains itself, or is nested too deeply"):
        encode(message)


def test_decoding_returns_a_new_message_each_time():
    data = encode({"list": []})

    first, second = decode(data), decode(data)
    first["list"].append(1)

    assert second == {"list": []}
