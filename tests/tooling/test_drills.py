"""Tests of the drills' counts: lost, reported, doubled, out of order, leaked."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys

import pytest
from benchmarks.drills import __main__ as command
from benchmarks.drills import registry, table
from benchmarks.drills.ledger import Ledger, Row, Sent
from benchmarks.drills.outbox.trial import Subscriber
from benchmarks.drills.outbox.writer import WRITER

from support.paths import ROOT


def row_of(*numbers, first=0, sent=5, raised=(), report_after=None, reported_at=10):
    """Return the row of one receiver; number n was sent at second n."""
    ledger = Ledger()
    receiver = ledger.receiver("stream", first)
    for number in numbers:
        receiver.record(number)
    if report_after is not None:
        receiver.reports.append((report_after, reported_at))
    ledger.record_sent({"stream": Sent(sent, set(raised), [*range(sent)])})
    return ledger.row()


def test_a_complete_stream_passes():
    row = row_of(0, 1, 2, 3, 4)

    assert (row.sent, row.received, row.lost) == (5, 5, 0)
    assert row.passed


def test_a_missing_number_counts_as_a_silent_loss():
    row = row_of(0, 1, 3, 4)

    assert (row.lost, row.silent) == (1, 1)
    assert not row.passed


def test_a_missing_end_counts_as_a_silent_loss():
    assert row_of(0, 1, 2).silent == 2


def test_a_missing_beginning_counts_as_a_silent_loss():
    assert row_of(2, 3, 4).silent == 2


def test_numbers_before_the_first_expected_one_are_not_lost():
    assert row_of(3, 4, first=3).lost == 0


def test_a_number_whose_sending_raised_may_be_missing():
    assert row_of(0, 1, 3, 4, raised=[2]).lost == 0


def test_a_number_whose_sending_raised_may_arrive():
    assert row_of(0, 1, 2, 3, 4, raised=[2]).passed


@pytest.mark.parametrize("report_after", [1, 3])
def test_a_report_after_the_gap_began_covers_the_loss(report_after):
    row = row_of(0, 1, 3, 4, report_after=report_after)

    assert (row.lost, row.silent, row.reported) == (1, 0, 1)
    assert row.passed


def test_a_report_before_the_gap_began_covers_nothing():
    assert row_of(0, 1, 3, 4, report_after=0).silent == 1


def test_a_report_does_not_cover_what_is_sent_later():
    row = row_of(0, 1, report_after=1, reported_at=3)

    assert (row.lost, row.silent) == (3, 1)


def test_a_receiver_that_has_left_expects_nothing_more():
    ledger = Ledger()
    receiver = ledger.receiver("stream")
    receiver.record(0)
    receiver.closed = True
    ledger.record_sent({"stream": Sent(3)})

    assert ledger.row().lost == 0
    assert not ledger.outstanding


def test_a_number_that_arrives_twice_is_doubled():
    row = row_of(0, 1, 1, 2, 3, 4)

    assert (row.doubled, row.received) == (1, 5)
    assert not row.passed


def test_a_number_after_a_later_one_is_out_of_order():
    row = row_of(0, 2, 1, 3, 4)

    assert (row.disordered, row.lost) == (1, 0)
    assert not row.passed


def test_a_receiver_without_its_last_number_is_outstanding():
    ledger = Ledger()
    for numbers in ([0, 1], [0, 1, 2]):
        receiver = ledger.receiver("stream")
        for number in numbers:
            receiver.record(number)
    ledger.record_sent({"stream": Sent(3)})

    assert ledger.outstanding == 1


def test_the_order_at_a_subscriber_of_the_outbox_is_that_of_each_writer():
    subscriber = Subscriber("stream")

    for number in (WRITER + 1, 2 * WRITER, WRITER + 2, 2 * WRITER + 5):
        subscriber.record(number)
    assert subscriber.disordered == 0
    subscriber.record(2 * WRITER + 4)

    assert (subscriber.disordered, subscriber.doubled) == (1, 0)


def test_a_number_that_arrives_twice_at_a_subscriber_of_the_outbox_is_doubled():
    subscriber = Subscriber("stream")

    for number in (WRITER, WRITER + 1, WRITER):
        subscriber.record(number)

    assert (subscriber.disordered, subscriber.doubled) == (0, 1)


def test_a_drill_that_leaks_fails():
    assert not Row(leaked=1).passed


def test_a_requirement_that_is_not_met_fails_the_row():
    row = Row()

    row.require(True, "kept")
    assert row.passed

    row.require([], "broken")
    assert row.failures == ["broken"]
    assert not row.passed


def test_a_failed_row_fails_the_run():
    rows = [Row(stack="tiderace"), Row(stack="tiderace", silent=1)]

    assert table.exit_status(rows[:1]) == 0
    assert table.exit_status(rows) == 1


def test_a_failure_of_channels_does_not_fail_the_run():
    assert table.exit_status([Row(stack="channels", silent=1)]) == 0


def test_the_table_has_a_line_for_each_row_and_each_failure():
    rows = [
        Row(drill="one", stack="tiderace", sent=1000),
        Row(drill="two", stack="tiderace", failures=["it broke"]),
        Row(drill="three", stack="tiderace", skipped="no nginx"),
    ]

    _, *lines = table.text(rows).splitlines()

    assert [line.split()[0] for line in lines] == ["one", "two", "three", "two"]
    assert "1,000" in lines[0]
    assert lines[0].endswith("passed")
    assert lines[1].endswith("FAILED")
    assert lines[2].endswith("skipped: no nginx")
    assert lines[3].endswith("it broke")


def test_the_page_gets_the_table(tmp_path):
    page = tmp_path / "drills.md"
    page.write_text(f"before\n{table.START}\nyesterday\n{table.END}\nafter\n")

    table.write_page(page, [Row(drill="one", stack="tiderace")], {"one": "It fails."})

    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "| one | tiderace |" in text
    assert "| one | It fails. |" in text
    assert "yesterday" not in text


def test_a_page_without_a_place_for_the_table_is_refused(tmp_path):
    page = tmp_path / "drills.md"
    page.write_text("no place\n")

    with pytest.raises(ValueError, match="needs the lines"):
        table.write_page(page, [], {})


@pytest.mark.parametrize(
    "drill", registry.drills().values(), ids=lambda each: each.name
)
def test_each_drill_has_a_title_a_function_and_stacks(drill):
    assert drill.title.endswith(".")
    assert inspect.iscoroutinefunction(drill.module.drill)
    assert set(drill.stacks) <= set(command.STACKS)
    assert "tiderace" in drill.stacks


class Scenario:
    """A scenario whose function the test gives."""

    STACKS = ("tiderace",)

    def __init__(self, drill):
        self.drill = drill


@pytest.fixture
def status_of(monkeypatch, tmp_path):
    """Return the exit status of a run with one drill."""
    monkeypatch.setattr("benchmarks.drills.harness.TOOLS", tmp_path)
    monkeypatch.setattr("benchmarks.peers.require", lambda runtime: None)
    monkeypatch.setattr("resource.setrlimit", lambda *limits: None)

    def run(drill, *arguments):
        found = {"one": registry.Drill("one", Scenario(drill))}
        monkeypatch.setattr(command, "drills", lambda: found)
        monkeypatch.setattr(sys, "argv", ["drills", *arguments])
        return command.main()

    return run


def test_a_run_without_a_fault_exits_with_zero(status_of, capsys):
    async def drill(harness):
        return Row(sent=1, received=1)

    assert status_of(drill, "one") == 0
    assert "passed" in capsys.readouterr().out


def test_a_run_with_a_silent_loss_exits_with_one(status_of, capsys):
    async def drill(harness):
        return Row(sent=1, lost=1, silent=1)

    assert status_of(drill) == 1
    assert "FAILED" in capsys.readouterr().out


def test_a_drill_that_raises_exits_with_one(status_of, capsys):
    async def drill(harness):
        raise RuntimeError("it broke")

    assert status_of(drill) == 1
    assert "it broke" in capsys.readouterr().out


def test_a_drill_that_cannot_run_says_why_and_is_no_failure(status_of, capsys):
    async def drill(harness):
        raise registry.Unavailable("there is no nginx")

    assert status_of(drill) == 0
    assert "skipped: there is no nginx" in capsys.readouterr().out


def test_the_soak_and_the_fuzzers_run_beside_the_other_drills():
    names = ["broker-cut", "fuzz-doors", "outbox-sqlite-redis", "presence", "soak"]

    assert command.side_by_side(names) == [
        ["broker-cut", "presence"],
        ["fuzz-doors", "outbox-sqlite-redis"],
        ["soak"],
    ]


def test_an_unknown_drill_is_refused(status_of, capsys):
    with pytest.raises(SystemExit) as exit_:
        status_of(None, "nothing")

    assert exit_.value.code == 2
    assert "no drill is called nothing" in capsys.readouterr().err


def test_the_process_that_forks_writers_and_relays_starts(tmp_path):
    apps = ["auth", "contenttypes", "sessions"]
    spec = {
        "stack": "tiderace",
        "hosts": ["redis://127.0.0.1"],
        "layer": {},
        "tiderace": {},
        "folder": str(tmp_path),
        "settings": {
            "INSTALLED_APPS": [
                *(f"django.contrib.{app}" for app in apps),
                "channels",
                "tiderace.outbox",
            ]
        },
    }
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.drills.outbox.forks"],
        cwd=ROOT,
        env={**os.environ, "DRILL_SITE": json.dumps(spec)},
        input="",
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )

    assert done.returncode == 0, done.stderr
