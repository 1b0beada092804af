"""A client's filter by tags."""

from __future__ import annotations

import msgspec
import pytest

from tiderace.protocol.messages import FilterNode
from tiderace.protocol.tag_filter import MAX_NODES, MAX_TEXT, matcher


def matches(node, tags):
    return matcher(msgspec.convert(node, FilterNode))(tags)


@pytest.mark.parametrize(
    ("cmp", "value", "tag", "expected"),
    [
        ("eq", "a", "a", True),
        ("eq", "a", "b", False),
        ("eq", "", None, False),
        ("neq", "a", "b", True),
        ("neq", "a", "a", False),
        ("neq", "a", None, True),
        ("ex", "", "", True),
        ("ex", "", None, False),
        ("nex", "", None, True),
        ("nex", "", "a", False),
        ("sw", "ab", "abc", True),
        ("sw", "bc", "abc", False),
        ("sw", "", None, False),
        ("ew", "bc", "abc", True),
        ("ct", "b", "abc", True),
        ("ct", "x", "abc", False),
        ("lt", "10", "9", True),
        ("lt", "10", "10", False),
        ("lte", "10", "10.0", True),
        ("gt", "0.1", "0.30000000000000001", True),
        ("gt", "9", "10", True),
        ("gte", "10", "9.99", False),
        ("gte", "10", None, False),
        ("gt", "1", "many", False),
        ("gt", "1", "inf", False),
        ("gt", "1", "9" * 41, False),
    ],
)
def test_a_comparison_with_one_value(cmp, value, tag, expected):
    tags = {} if tag is None else {"k": tag}

    assert matches({"key": "k", "cmp": cmp, "val": value}, tags) is expected


@pytest.mark.parametrize(
    ("cmp", "tag", "expected"),
    [
        ("in", "a", True),
        ("in", "c", False),
        ("in", None, False),
        ("nin", "a", False),
        ("nin", "c", True),
        ("nin", None, True),
    ],
)
def test_a_comparison_with_several_values(cmp, tag, expected):
    tags = {} if tag is None else {"k": tag}

    assert matches({"key": "k", "cmp": cmp, "vals": ["a", "b"]}, tags) is expected


def test_operations_combine_nodes():
    one = {"key": "a", "cmp": "eq", "val": "1"}
    two = {"key": "b", "cmp": "eq", "val": "1"}

    def results(node):
        sets = ({}, {"a": "1"}, {"b": "1"}, {"a": "1", "b": "1"})
        return [matches(node, each) for each in sets]

    assert results({"op": "and", "nodes": [one, two]}) == [False, False, False, True]
    assert results({"op": "or", "nodes": [one, two]}) == [False, True, True, True]
    assert results({"op": "not", "nodes": [one]}) == [True, False, True, False]


@pytest.mark.parametrize(
    ("node", "text"),
    [
        ({}, "a comparison without a key"),
        ({"key": "k"}, "'' is no comparison"),
        ({"key": "k", "cmp": "like", "val": "a"}, "'like' is no comparison"),
        (
            {"key": "k", "cmp": "gt", "val": "much"},
            "'gt' with 'much', which is no number",
        ),
        (
            {"key": "k", "cmp": "lt", "val": "nan"},
            "'lt' with 'nan', which is no number",
        ),
        ({"op": "and"}, "'and' with 0 nodes"),
        (
            {"op": "xor", "nodes": [{"key": "k", "cmp": "ex"}]},
            "is none of and, or, not",
        ),
        ({"op": "not", "nodes": [{"key": "k", "cmp": "ex"}] * 2}, "'not' with 2 nodes"),
        (
            {"op": "or", "nodes": [{"key": "k", "cmp": "ex"}] * MAX_NODES},
            "more than 100 nodes",
        ),
        (
            {"key": "k", "cmp": "in", "vals": ["abcd"] * (MAX_TEXT // 4)},
            "more than 8192 characters",
        ),
    ],
)
def test_a_filter_that_cannot_be_read_is_an_error_with_what_is_wrong(node, text):
    with pytest.raises(ValueError, match=text):
        matcher(msgspec.convert(node, FilterNode))


def test_a_filter_of_the_most_nodes_is_read():
    nodes = [{"key": "k", "cmp": "ex"}] * (MAX_NODES - 1)

    assert matches({"op": "or", "nodes": nodes}, {"k": ""})
