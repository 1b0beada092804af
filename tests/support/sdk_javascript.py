"""The npm package ``centrifuge`` for tests: where it is, and which scenarios there are.

The scenarios themselves are in ``tests/sdk``; this knows only their names.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import Any

import pytest

from support.paths import TESTS

__all__ = ["PACKAGE", "SCENARIOS", "names", "play_in_node"]

SCENARIOS = TESTS / "topics/sdk/scenarios.mjs"
PACKAGE = TESTS.parent / "clients/js/node_modules/centrifuge"


def names(group: str) -> list[str]:
    """The scenarios of one exported object, in order."""
    text = SCENARIOS.read_text()
    body = text.partition(f"export const {group} = {{")[2].partition("\n};")[0]
    found = re.findall(r"^  async (\w+)\(world\)", body, re.MULTILINE)
    assert found, f"no scenarios in {group}"
    return found


def play_in_node(**options: Any) -> dict[str, str | None]:
    """What became of each scenario: None, or what went wrong."""
    if shutil.which("node") is None:
        pytest.skip("node cannot be run")
    if not PACKAGE.exists():
        pytest.skip(f"{PACKAGE} is not there; run npm ci in clients/js")
    run = subprocess.run(
        ["node", "topics/sdk/node.mjs", json.dumps(options)],
        cwd=TESTS,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    results: dict[str, str | None] = json.loads(run.stdout)
    return results
