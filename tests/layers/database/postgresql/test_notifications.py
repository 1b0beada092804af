"""NOTIFY carries as many rows as fit, with their data where it fits."""

from __future__ import annotations

import pytest

from tiderace.layers.database.postgresql.notifications import (
    Announcement,
    decode,
    encode,
)
from tiderace.layers.database.vendor import FeedRow


def row(number, data=b"data"):
    return FeedRow("asgi:room", "epoch", number, number - 1, data, 1_700_000_000_000)


def test_rows_arrive_as_they_were_with_the_ids_of_their_entries():
    rows = [row(1, b"\0\xff"), row(2)]

    (payload,) = encode(rows, {("asgi:room", 1): 7, ("asgi:room", 2): 9})

    found = decode(payload.encode())
    assert [each.id for each in found] == [7, 9]
    assert [each.as_row() for each in found] == rows


def test_many_rows_are_divided_into_payloads_that_postgresql_takes():
    rows = [row(number, b"x" * 150) for number in range(1, 201)]

    payloads = encode(rows, {})

    assert len(payloads) < 12
    assert all(len(each) < 8000 for each in payloads)
    found = [each for payload in payloads for each in decode(payload.encode())]
    assert [each.as_row() for each in found] == rows


@pytest.mark.parametrize("size", [5000, 5500, 5600, 5700, 6000, 1_000_000])
def test_a_row_that_is_too_large_is_announced_without_its_data(size):
    (payload,) = encode([row(1, b"x" * size)], {("asgi:room", 1): 7})

    (found,) = decode(payload.encode())
    assert len(payload) < 8000
    assert found.id == 7
    assert found.data in (None, b"x" * size)
    assert (found.data is None) == (size >= 5600)


def test_a_queue_is_announced_by_its_name():
    (payload,) = encode([FeedRow("asgi:work")], {})

    assert decode(payload.encode()) == [Announcement(0, "asgi:work")]


def test_without_new_rows_there_is_no_payload():
    assert encode([], {}) == []


@pytest.mark.parametrize("payload", [b"", b"hello", b"{}", b"kQ==", b"gaJpZAE="])
def test_a_payload_of_another_program_is_an_error(payload):
    with pytest.raises(ValueError):
        decode(payload)
