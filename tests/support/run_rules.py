"""The rules of a whole run: the option --fast, skipped tests in CI, Ctrl-C."""

from __future__ import annotations

import multiprocessing.process
import os
import signal
import subprocess
from collections.abc import Iterator
from typing import Any, NoReturn

import hypothesis
import pytest

CI = os.environ.get("CI", "").lower() not in {"", "0", "false"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fast", action="store_true", help="skip what starts a browser or a process"
    )


def pytest_configure(config: pytest.Config) -> None:
    # A shell lets its background jobs ignore Ctrl-C, and so would their children; tests
    # send it to servers and commands.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # A deadline for one example would measure how busy the machine is.
    examples = 10 if config.option.fast else 100
    hypothesis.settings.register_profile("suite", deadline=None, max_examples=examples)
    hypothesis.settings.load_profile("suite")


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Fast run: leave out browsers and servers, skip a test when it starts a process."""
    if not config.option.fast:
        return
    slow = {item for item in items for _ in item.iter_markers("browser")}
    slow |= {item for item in items for _ in item.iter_markers("servers")}
    config.hook.pytest_deselected(items=[*slow])
    items[:] = [item for item in items if item not in slow]
    # pytest_configure would be too early: xdist starts its workers as processes.
    subprocess.Popen.__init__ = skip_start
    multiprocessing.process.BaseProcess.start = skip_start
    os.fork = skip_start


def skip_start(*args: object, **kwargs: object) -> NoReturn:
    pytest.skip("starts a process, which the fast run does not")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Iterator[None]:
    report: Any = yield
    if CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI does not allow: {report.longrepr[2]}"
    return report
