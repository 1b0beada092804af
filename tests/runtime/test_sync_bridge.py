"""The sync form of a coroutine function."""

from __future__ import annotations

import inspect

import pytest

from tiderace.runtime import sync_bridge


async def atwice(number: int, *, plus: int = 0) -> int:
    """Return the number twice."""
    return 2 * number + plus


twice = sync_bridge.blocking(atwice)


def test_the_sync_form_takes_the_same_arguments_and_returns_the_result():
    assert twice(2, plus=1) == 5
    assert inspect.signature(twice) == inspect.signature(atwice)
    assert not inspect.iscoroutinefunction(twice)


def test_the_sync_form_has_its_own_name_and_the_docstring():
    assert (twice.__name__, twice.__qualname__) == ("twice", "twice")
    assert inspect.getdoc(twice).startswith("Return the number twice.\n")
    assert "sync form of ``atwice``" in twice.__doc__


async def test_the_sync_form_is_refused_where_an_event_loop_runs():
    with pytest.raises(RuntimeError, match=r"write: await atwice\(\)"):
        twice(2)
