"""The records of a growth stream, folded into messages."""

from __future__ import annotations

import random

import msgspec
import pytest
from msgspec import Raw

from tiderace.topics.growing.records import (
    Change,
    MessageLog,
    MissingText,
    Record,
    State,
    after,
    length,
)


def whole(text, *, writer="w", by="ai"):
    return Record("a", writer, text=text, data={"by": Raw(msgspec.json.encode(by))})


def append(at, text, *, writer="w", **fields):
    return Record("a", writer, at=at, text=text, **fields)


def text_of(log):
    return log.messages["a"].text


@pytest.fixture
def log():
    return MessageLog()


def test_appends_are_joined(log):
    log.apply(whole("Hel"), 0.0)

    change = log.apply(append(3, "lo"), 0.0)

    assert (change.at, change.added) == (3, "lo")
    assert text_of(log) == "Hello"


def test_positions_are_counted_as_in_javascript(log):
    log.apply(whole("😀é"), 0.0)

    change = log.apply(append(3, "!"), 0.0)

    assert change.added == "!"
    assert length("😀é!") == 4
    assert after("😀é!", 2) == "é!"


def test_a_repeated_append_changes_nothing(log):
    log.apply(whole("Hel"), 0.0)
    log.apply(append(3, "lo"), 0.0)

    assert log.apply(append(3, "lo"), 0.0) is None
    assert text_of(log) == "Hello"


def test_an_append_that_is_there_in_part_is_cut(log):
    log.apply(whole("H😀"), 0.0)

    change = log.apply(append(1, "😀!"), 0.0)

    assert (change.at, change.added) == (3, "!")


def test_an_append_after_a_gap_is_refused(log):
    log.apply(whole("Hel"), 0.0)

    with pytest.raises(MissingText):
        log.apply(append(4, "o"), 0.0)

    assert text_of(log) == "Hel"


def test_an_append_to_an_unknown_message_is_refused(log):
    with pytest.raises(MissingText):
        log.apply(append(0, "Hello"), 0.0)


def test_a_whole_text_that_goes_on_is_an_append(log):
    log.apply(whole("Hel"), 0.0)

    change = log.apply(whole("Hello"), 0.0)

    assert (change.at, change.added) == (3, "lo")


def test_a_whole_text_with_other_fields_is_new(log):
    log.apply(whole("Hel"), 0.0)

    change = log.apply(whole("Hel", by="me"), 0.0)

    assert change == Change(log.messages["a"])


def test_a_whole_text_shorter_than_the_message_is_old(log):
    log.apply(whole("Hello"), 0.0)

    assert log.apply(whole("Hel"), 0.0) is None
    assert text_of(log) == "Hello"


def test_the_writer_that_began_last_counts(log):
    log.apply(whole("one", writer="w1"), 0.0)
    log.apply(whole("two", writer="w2"), 0.0)

    assert log.apply(append(3, "!", writer="w1"), 0.0) is None
    assert text_of(log) == "two"


def test_the_first_end_counts(log):
    log.apply(whole("Hel"), 0.0)
    change = log.apply(append(3, "lo", state=State.FINISHED), 0.0)

    assert (change.added, change.message.state) == ("lo", State.FINISHED)
    assert log.apply(append(5, "", state=State.FAILED), 0.0) is None
    assert log.apply(append(5, "!"), 0.0) is None
    assert log.messages["a"].state is State.FINISHED


def test_an_end_without_text_is_a_change(log):
    log.apply(whole("Hello"), 0.0)

    change = log.apply(append(5, "", state=State.FAILED, reason="gone"), 0.0)

    assert (change.at, change.added) == (5, "")
    assert change.as_pub().tags == {
        "grow": "a",
        "grow_position": "5",
        "grow_state": "failed",
        "grow_reason": "gone",
    }


def test_records_of_a_closed_message_are_left_out(log):
    log.apply(whole("Hello"), 0.0)
    log.apply(Record("a", "w", closed=True), 0.0)

    assert log.apply(append(5, "!"), 0.0) is None
    assert log.apply(whole("Hello"), 0.0) is None
    assert log.messages == {}


def test_signs_of_a_writer_move_the_time_at_which_it_was_seen(log):
    log.apply(whole("Hello"), 1.0)

    assert log.apply(append(5, ""), 2.0) is None
    assert log.messages["a"].seen_at == 2.0


@pytest.mark.parametrize("seed", range(20))
def test_repeated_and_overlapping_records_give_the_same_text(seed):
    chance = random.Random(seed)
    text = "".join(chance.choice("ab😀é\n") for _ in range(200))
    log = MessageLog()
    joined = ""
    sent = 0
    log.apply(whole(""), 0.0)
    while sent < len(text):
        start = max(0, sent - chance.randrange(4))
        sent = min(len(text), sent + chance.randrange(1, 9))
        record = append(length(text[:start]), text[start:sent])
        if chance.random() < 0.2:
            record = whole(text[:sent])
        for _ in range(chance.choice((1, 1, 2))):
            change = log.apply(record, 0.0)
            if change is not None:
                assert length(joined) == change.at
                joined += change.added

    assert joined == text_of(log) == text
