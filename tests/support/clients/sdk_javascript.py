"""The scenarios of the npm package ``centrifuge``: their names, and how to run them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import Any

import pytest

from support.paths import TESTS

__all__ = ["PACKAGE", "SCENARIOS", "names", "run_in_node"]

SCENARIOS = TESTS / "topics/sdk/scenarios.mjs"
PACKAGE = TESTS.parent / "clients/js/node_modules/centrifuge"


def names(group: str) -> list[str]:
    """Return the scenarios of one exported object, in order."""
    text = SCENARIOS.read_text()
    body = text.partition(f"export const {group} = {{")[2].partition("\n};")[0]
    found = re.findall(r"^  async (\w+)\(context\)", body, re.MULTILINE)
    assert found, f"no scenarios in {group}"
    return found


def run_in_node(**options: Any) -> dict[str, str | None]:
    """Run scenarios; return the error of each, or None."""
    if shutil.which("node") is None:
        pytest.skip("node cannot be run")
    if not PACKAGE.exists():
        pytest.skip(f"{PACKAGE} does not exist; run npm ci in clients/js")
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
