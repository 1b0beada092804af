"""The encoder of Fossil's deltas, against a decoder that is written from the format."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from support.topics.fossil import apply
from tiderace.protocol.fossil import delta

TEXTS = st.text(st.sampled_from('aé☃🌊bc"{}:1\n'), max_size=200)


@st.composite
def edited(draw, values):
    """A value, and what a few edits make of it."""
    source = draw(values)
    target = source
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, len(target)))
        count = draw(st.integers(0, 30))
        part = draw(st.one_of(values, st.just(source[place : place + count])))
        target = target[:place] + part + target[place + count :]
    return source, target


@given(edited(st.binary(max_size=200)))
def test_a_delta_makes_the_target_of_the_source(pair):
    source, target = pair

    assert apply(source, delta(source, target)) == target


@given(edited(TEXTS))
def test_a_delta_of_texts_is_a_text(pair):
    source, target = (each.encode() for each in pair)

    difference = delta(source, target, text=True)

    assert difference.decode().encode() == difference
    assert apply(source, difference) == target


def test_a_number_that_changes_takes_a_few_bytes():
    source = b'{"match": 4711, "score": 1, "name": "%s"}' % (b"x" * 500)

    assert len(delta(source, source.replace(b" 1,", b" 2,"))) < 30


def test_a_part_that_has_moved_is_copied():
    one, other = bytes(range(100)), bytes(range(100, 200))

    assert len(delta(one + other, other + one)) < 40


def test_values_without_anything_in_common_are_a_literal():
    assert delta(b"abc", b"xyz") == b"3\n3:xyz" + _end(b"xyz")


def test_equal_values_are_one_copy():
    data = b"the same"

    assert delta(data, data) == b"8\n8@0," + _end(data)


def test_a_large_state_with_changes_at_both_ends_is_a_few_copies():
    rows = [b'{"row": %d, "price": 100}' % row for row in range(2000)]
    source = b",".join(rows)
    rows[1] = b'{"row": 1, "price": 101}'
    rows[1000] = b'{"row": 1000, "price": 99}'
    rows[-2] = b'{"row": 1998, "price": 102}'

    target = b",".join(rows)

    assert len(target) > 50_000
    assert len(delta(source, target)) < 100
    assert apply(source, delta(source, target)) == target


def test_values_with_nothing_in_common_are_not_searched_to_the_end():
    # What is found late is not copied: the search is bounded.
    late = bytes(range(256))

    assert len(delta(late, b"\xff\x00" * 50_000 + late + b"!")) > 100_256


def _end(data):
    """The checksum and the end of a delta, by the decoder's own sum."""
    return delta(b"", data).rpartition(data)[2]
