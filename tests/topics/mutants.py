"""Whether the tests of topics would notice: each mutant must be caught by some of them.

Run by hand, ``pytest tests/topics/mutants.py``: it is a test of tests, with a pytest each.

Suites that others have written for this protocol let half of these mistakes pass. The
fewest tests that ought to catch one run in a process of their own, in which it is made.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from dataclasses import dataclass
from typing import Any

import pytest

from support.paths import TESTS
from support.topics import mutants

pytestmark = pytest.mark.timeout(120)


CONNECTING = "topics/client/test_connecting.py::test_"
PRESENCE_OF_CLIENTS = "topics/client/test_presence_of_clients.py::test_"
PUBLISHING = "topics/client/test_publishing.py::test_"
READING = "topics/client/test_reading.py::test_"
RECOVERY = "topics/client/test_recovery.py::test_"
SUBSCRIBING = "topics/client/test_subscribing.py::test_"
TIMES_AND_LIMITS = "topics/client/test_times_and_limits.py::test_"
AUTH = "topics/test_topics_auth.py::test_"
HTTP = "topics/transports/test_transports_http.py::test_"
POSITIONS = "topics/test_positions.py::test_"
STORM = "topics/test_topics_property.py::test_"

MISSED = f"{RECOVERY}a_returning_client_gets_exactly_what_it_missed"
HISTORY = f"{READING}history_is_read_with_a_limit_and_backwards"
KEPT = f"{STORM}no_client_loses_a_publication_that_is_kept[0]"

CATCHERS = {
    "recovery_loses_the_last_one": MISSED,
    "recovery_repeats_one": MISSED,
    "recovery_is_reversed": MISSED,
    "recovery_always_succeeds": (
        f"{RECOVERY}a_client_that_missed_more_than_is_kept_is_not_recovered",
        f"{STORM}every_loss_is_reported_to_the_client[0]",
    ),
    "no_client_is_refused_for_an_old_position": (
        f"{RECOVERY}a_client_with_the_flag_is_refused_instead_of_unrecovered"
    ),
    "offsets_have_gaps": f"{SUBSCRIBING}a_subscriber_gets_publications",
    "epochs_change_with_every_reply": MISSED,
    "gaps_are_not_noticed": (
        "protocol/test_protocol_session.py::test_a_publication_that_does_not_follow_is_a_loss"
    ),
    "every_third_publication_is_lost": KEPT,
    "every_publication_comes_twice": KEPT,
    "commands_of_a_message_are_reversed": (
        f"{SUBSCRIBING}commands_of_one_message_are_answered_in_order"
    ),
    "publications_overtake_the_reply": (
        f"{RECOVERY}no_publication_comes_before_the_reply_to_subscribe"
    ),
    "publications_are_lost_while_a_subscription_begins": (
        f"{RECOVERY}no_publication_comes_before_the_reply_to_subscribe",
        f"{RECOVERY}no_publication_comes_before_the_reply_to_connect",
    ),
    "unsubscribing_keeps_pushing_joins": (
        f"{PRESENCE_OF_CLIENTS}a_client_gets_no_joins_after_unsubscribe"
    ),
    "unsubscribing_keeps_delivering": f"{SUBSCRIBING}a_client_gets_nothing_after_unsubscribe",
    "history_is_never_reversed": HISTORY,
    "history_has_no_beginning": HISTORY,
    "presence_is_empty": f"{PRESENCE_OF_CLIENTS}presence_lists_the_clients_of_a_topic",
    "joins_are_not_pushed": (
        f"{PRESENCE_OF_CLIENTS}a_client_that_asked_for_joins_gets_joins_and_leaves"
    ),
    "a_bad_token_closes_with_another_code": (
        f"{AUTH}an_invalid_token_closes_the_connection_for_good[text]"
    ),
    "positions_are_accepted_unsigned": tuple(
        f"{POSITIONS}a_position_that_the_server_has_not_given_recovers_nothing"
        f"[memory-{epoch}]"
        for epoch in ("empty", "raw", "forged")
    ),
    "a_signed_position_is_good_for_earlier_offsets": (
        f"{POSITIONS}an_offset_before_the_given_position_recovers_nothing[memory]"
    ),
    "a_signed_position_is_good_for_every_topic": (
        f"{POSITIONS}a_position_of_another_topic_recovers_nothing[memory]"
    ),
    "expired_tokens_are_good": (
        f"{AUTH}an_expired_token_is_an_error_so_that_a_fresh_one_is_fetched",
        f"{AUTH}a_token_for_another_purpose_is_refused[expired]",
    ),
    "signatures_are_not_checked": (
        f"{AUTH}an_invalid_token_closes_the_connection_for_good[key]"
    ),
    "a_token_is_good_for_every_topic": (
        f"{AUTH}a_token_for_another_purpose_is_refused[topic]"
    ),
    "signatures_of_keys_with_an_id_are_not_checked": (
        "topics/test_tokens.py::test_a_token_under_the_id_of_a_key_needs_its_signature"
    ),
    "a_topic_that_requires_a_token_takes_clients_without": (
        f"{AUTH}a_required_token_is_required_besides_permissions"
    ),
    "a_signed_name_is_good_for_a_shorter_one": (
        f"{AUTH}a_signed_name_is_refused_for_the_beginning_of_it"
    ),
    "can_read_history_is_not_called": (
        f"{PRESENCE_OF_CLIENTS}can_read_history_and_can_see_presence_are_called[history]"
    ),
    "can_see_presence_is_not_called": (
        f"{PRESENCE_OF_CLIENTS}can_read_history_and_can_see_presence_are_called[presence]",
        f"{PRESENCE_OF_CLIENTS}a_client_without_permission_for_presence_gets_no_joins",
    ),
    "a_client_whose_connect_was_refused_may_go_on": tuple(
        f"{CONNECTING}a_client_that_on_connect_refuses_runs_no_command[error{n}]"
        for n in range(2)
    ),
    "a_connection_outlives_the_token_of_its_refresh": (
        f"{AUTH}a_refreshed_connection_ends_with_its_newer_token"
    ),
    "a_subscription_outlives_the_token_of_its_refresh": (
        f"{AUTH}a_refreshed_subscription_ends_with_its_newer_token"
    ),
    "every_client_may_subscribe": f"{SUBSCRIBING}a_refused_subscription_has_an_error_code[closed-103]",
    "a_connection_outlives_its_token": (
        f"{AUTH}a_connection_whose_token_expired_is_closed"
    ),
    "a_subscription_outlives_its_token": (
        f"{AUTH}a_subscription_whose_token_expired_ends_alone"
    ),
    "pings_come_ten_times_too_late": f"{TIMES_AND_LIMITS}pings_come_as_often_as_announced",
    "pings_over_http_need_no_answer": tuple(
        f"{HTTP}a_client_that_answers_no_ping_is_closed[{kind}]"
        for kind in ("http_stream", "sse")
    ),
    "a_slow_command_makes_pongs_late": (
        f"{TIMES_AND_LIMITS}a_pong_that_waits_behind_a_command_is_in_time"
    ),
    "a_client_that_leaves_during_a_command_is_not_noticed": (
        f"{TIMES_AND_LIMITS}a_client_that_leaves_during_a_command_is_released_at_once"
    ),
    "there_are_no_pings": f"{TIMES_AND_LIMITS}a_client_that_answers_pings_stays",
    "pings_need_no_answer": f"{TIMES_AND_LIMITS}a_client_that_does_not_answer_a_ping_is_closed",
    "any_number_of_bytes_may_wait": (
        f"{TIMES_AND_LIMITS}a_client_that_does_not_read_is_closed_as_slow"
    ),
    "messages_may_be_of_any_length": (
        f"{TIMES_AND_LIMITS}a_frame_that_is_too_long_ends_the_connection"
    ),
    "the_server_has_no_limit_for_messages": (
        "topics/test_topics_server.py::test_the_limit_is_the_setting"
    ),
    "a_repeated_key_does_not_wait": (
        f"{PUBLISHING}a_repeated_key_waits_for_the_first_publish"
    ),
    "another_port_is_the_same_origin": (
        "security/test_page_origins.py::test_a_websocket_of_a_page_on_another_port_is_refused"
    ),
    "an_unknown_session_takes_commands": f"{HTTP}an_unknown_session_is_not_found",
    "any_user_may_use_a_session": f"{HTTP}another_users_session_is_not_found",
}

NEEDED = (
    "pytest_asyncio.plugin",
    "pytest_django.plugin",
    "pytest_timeout",
    "no:cacheprovider",
)
SOME_FAILED = 1  # pytest's; anything else would be a mistake in what is run


@dataclass(frozen=True, slots=True)
class Done:
    """The exit status and the output of a run."""

    status: int
    output: str


def play(arguments: list[str], mutant: str, output: str) -> None:
    """Run pytest in a child of the fork server, and end with its status."""
    os.chdir(TESTS)
    os.environ["MUTANT"] = mutant
    # Most of the time would go into loading what is not needed here.
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    for name in [name for name in os.environ if name.startswith("PYTEST_XDIST")]:
        del os.environ[name]
    file = os.open(output, os.O_WRONLY | os.O_CREAT)
    os.dup2(file, 1)
    os.dup2(file, 2)
    status = pytest.main(arguments, plugins=[mutants])
    sys.stdout.flush()
    os._exit(status)


@pytest.fixture(scope="module")
def processes() -> Any:
    """The context of child processes that start with the slow imports done."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest", "hypothesis", "jwt", "tiderace.topics"])
    return context


@pytest.fixture
def run(processes, tmp_path):
    """Run tests as they are, or with a mistake; those that wait for ever fail."""

    def go(*tests: str, mutant: str = "") -> Done:
        # Some mistakes have a test wait for what never comes.
        patience = 12 if mutant else 40
        options = ["-q", f"--timeout={patience}", *(f"-p{plugin}" for plugin in NEEDED)]
        output = tmp_path / "output"
        child = processes.Process(
            target=play, args=([*options, *tests], mutant, str(output))
        )
        child.start()
        child.join(90)
        if child.exitcode is None:
            child.kill()
            child.join()
        assert child.exitcode is not None
        done = Done(child.exitcode, output.read_text())
        child.close()
        return done

    return go


def catchers(name: str) -> tuple[str, ...]:
    tests = CATCHERS[name]
    return (tests,) if isinstance(tests, str) else tests


def test_every_mutant_has_tests_that_should_catch_it():
    assert CATCHERS.keys() == mutants.MUTANTS.keys()


def test_all_tests_pass_without_a_mutant(run):
    every = sorted({test for name in CATCHERS for test in catchers(name)})
    done = run(*every)

    assert done.status == 0, done.output


@pytest.mark.parametrize("name", sorted(CATCHERS))
def test_a_mutant_is_caught(run, name):
    done = run(*catchers(name), mutant=name)
    summary = done.output.splitlines()[-1]

    assert done.status == SOME_FAILED, done.output
    assert "failed" in summary, done.output
    # All of them must fail: one that passes is not needed here.
    assert "passed" not in summary, done.output
