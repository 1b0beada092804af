"""The declaration of topics."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from django.core.exceptions import ImproperlyConfigured

from tiderace.topics import (
    History,
    Topic,
)
from tiderace.topics.declaration.topic import declared

pytestmark = pytest.mark.usefixtures("fresh_layer")


def test_two_classes_cannot_have_one_pattern(own_topics):
    class One(Topic):
        pattern = "same"

    with pytest.raises(ImproperlyConfigured, match="same pattern 'same'"):

        class Two(Topic):
            pattern = "same"


def test_a_wrong_rate_is_found_when_the_class_is_made(own_topics):
    with pytest.raises(ImproperlyConfigured, match="'often' is no rate"):

        class Wrong(Topic):
            pattern = "wrong"
            publish_rate = "often"


def test_a_history_that_keeps_nothing_is_refused():
    with pytest.raises(ImproperlyConfigured, match="leave history = None"):
        History(size=0)


def test_the_most_specific_pattern_wins(own_topics):
    class Anything(Topic):
        pattern = "<str:name>"

    class Exactly(Topic):
        pattern = "exactly"

    assert isinstance(declared.resolve("exactly"), Exactly)
    assert isinstance(declared.resolve("other"), Anything)


def test_importing_topics_needs_neither_settings_nor_apps():
    """An app's ``__init__`` or ``apps.py`` may import ``publish``."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "import tiderace.topics"],
        env={k: v for k, v in os.environ.items() if k != "DJANGO_SETTINGS_MODULE"},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )

    assert done.returncode == 0, done.stderr
