"""The folders of this repository that tests read from or run in."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
SPEC = ROOT / "spec"
STATIC = ROOT / "src" / "tiderace" / "static"
