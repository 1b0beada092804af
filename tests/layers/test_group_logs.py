"""Layers escape control characters of group names in their log messages."""

from __future__ import annotations

import time

import pytest

from tiderace.layers.local import DropLog, LocalChannels
from tiderace.layers.pubsub.delivery import LossLog

NAME = "lobby\nERROR forged\x1b[2J"


def full() -> None:
    log = DropLog()
    local = LocalChannels(
        expiry=60,
        group_expiry=86400,
        capacity_of=lambda name: 100,
        clock=time.monotonic,
        drop_log=log,
    )
    log.mailbox_full(NAME, local.attach("a.b!c"), drops=1, members=1)


@pytest.mark.parametrize(
    "log",
    [
        full,
        lambda: DropLog().queues_full(1, 2, ["room", NAME]),
        lambda: LossLog(time.monotonic).lost(NAME, 3),
        lambda: LossLog(time.monotonic).unreadable(NAME, ValueError("no key")),
    ],
    ids=["mailbox", "queues", "lost", "unreadable"],
)
def test_a_line_break_in_a_groups_name_forges_no_line_of_the_log(log, caplog):
    caplog.set_level("INFO")
    log()

    (record,) = caplog.records
    assert "lobby%0AERROR%20forged%1B" in record.getMessage()
    assert "\n" not in str(getattr(record, "group", ""))
