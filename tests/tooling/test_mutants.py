"""The mutants of topics, which break them on purpose."""

from __future__ import annotations

import os
import subprocess
import sys

from support.paths import TESTS

APPLY = """
import django
django.setup()
from support.topics.mutants import MUTANTS
for apply in MUTANTS.values():
    apply()
"""


def test_each_mutant_finds_what_it_breaks():
    done = subprocess.run(
        [sys.executable, "-c", APPLY],
        cwd=TESTS,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "settings"},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )

    assert done.returncode == 0, done.stderr
