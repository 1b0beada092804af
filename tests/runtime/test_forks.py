"""Objects are reset in a forked child."""

from __future__ import annotations

import gc
import os

import pytest

from tiderace.runtime.forks import after_fork

pytestmark = pytest.mark.filterwarnings(
    # Other tests' threads are none of this child's business: it ends at once.
    "ignore:.*multi-threaded, use of fork.*:DeprecationWarning"
)


class Connection:
    def __init__(self):
        self.open = True
        after_fork(self.reset)

    def reset(self):
        self.open = False


def in_child(question) -> bool:
    """Return whether ``question()`` is true in a forked child."""
    child = os.fork()
    if child == 0:
        os._exit(0 if question() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_an_object_is_reset_in_the_child_and_not_in_the_parent():
    connection = Connection()

    assert in_child(lambda: not connection.open)
    assert connection.open


def test_an_object_that_is_gone_is_not_reset():
    calls = []

    class Counted(Connection):
        def reset(self):
            calls.append(self)

    Counted()
    gc.collect()

    assert in_child(lambda: not calls)


def test_a_function_is_called_in_the_child():
    calls = []

    after_fork(lambda: calls.append(1))

    assert in_child(lambda: calls == [1])
    assert calls == []
