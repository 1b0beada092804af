"""Names of groups for any values: legal, the same each time, never the same for two."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiderace.layers import BaseChannelLayer
from tiderace.layers.names import MAX_NAME_LENGTH, group_name

TEXTS = st.lists(st.text(max_size=80), min_size=1, max_size=4)


def test_plain_parts_are_joined_by_dots():
    assert group_name("user", 42, "alerts") == "user.42.alerts"


def test_an_email_address_makes_a_legal_name_with_its_readable_parts():
    name = group_name("user", "ann@example.org")

    assert name.startswith("user.")
    assert len(name) == len("user.") + 32


def test_the_same_values_make_the_same_name_in_every_process():
    """A digest, not a hash() that differs between processes."""
    assert group_name("user", "ann@example.org") == (
        "user.438c4c7afe600cdf1e455c369bec76dc"
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("a", "b"), ("a.b",)),
        (("a", "b.c"), ("a.b", "c")),
        (("a b",), ("a", "b")),
        (("a",), ("a", "")),
        (("", "a"), ("a", "")),
        (("caf\u00e9",), ("cafe",)),
        (("x" * 200,), ("x" * 201,)),
        (("x" * 60, "y" * 60), ("x" * 60 + "\0" + "y" * 60,)),
        (("\0".join(["x" * 60, "y" * 60]),), ("x" * 60 + "y" * 60,)),
        (("user", "!"), ("user", "bb7208bc9b5d7c04f1236a82a0093a5e")),
        (("A",), ("a",)),
    ],
)
def test_different_values_make_different_names(one, other):
    assert group_name(*one) != group_name(*other)


def test_a_part_that_looks_like_a_digest_is_hashed():
    digest = group_name("user", "ann@example.org").removeprefix("user.")

    assert group_name("user", digest) != group_name("user", "ann@example.org")


def test_values_are_converted_to_text():
    room = uuid.UUID(int=7)

    assert group_name("room", room) == group_name("room", str(room)) == f"room.{room}"


def test_long_names_are_shortened_to_a_legal_length():
    assert len(group_name(*("part" * 5 for _ in range(20)))) < MAX_NAME_LENGTH


def test_text_that_cannot_be_encoded_makes_a_legal_name():
    assert group_name("\ud800") != group_name("\ud801")


def test_a_name_needs_a_part():
    with pytest.raises(ValueError, match="at least one part"):
        group_name()


@given(parts=TEXTS)
def test_every_name_is_legal(parts):
    assert BaseChannelLayer().require_valid_group_name(group_name(*parts))


@given(one=TEXTS, other=TEXTS)
def test_names_are_equal_only_for_equal_parts(one, other):
    assert (group_name(*one) == group_name(*other)) == (one == other)
