"""The messages in the tables of the troubleshooting page are those of the code."""

from __future__ import annotations

import re

import pytest

from support.paths import ROOT

PAGE = (ROOT / "docs/guides/troubleshooting.md").read_text("utf-8")
SOURCE = " ".join(
    path.read_text("utf-8")
    for folder in ("src/tiderace", "clients/js/src")
    for path in (ROOT / folder).rglob("*.*")
    if path.suffix in (".py", ".ts")
)
# Text over several lines of the source, and values in braces, as in the message.
TEXT = re.sub(r"\{[^{}]*\}|\$\{[^{}]*\}", "…", re.sub(r'["\']\s+f?["\']', "", SOURCE))
# Of Django, Python and the browser.
FOREIGN = (
    "Not Found: /connection/websocket",
    "Django can only handle ASGI/HTTP connections",
    "missing 1 required positional argument",
    "Failed to resolve module specifier",
    "RuntimeWarning: coroutine",
    "must be a valid unicode string",
)
# The values and names in a message stand for any.
VALUES = re.compile(
    r"…|'[^']*'|\"[^\"]*\"|\b(?:AllowAny|User|True|redis|publish|tiderace\.js)\b|3 s|"
    r"\(self, message\)|\(10\d\)|\$|%\w"
)


def messages() -> list[str]:
    """Return the code in the first columns of the tables that quotes a message."""
    found = []
    for row in re.findall(r"^\| (?!---)(.*) \|$", PAGE, re.MULTILINE):
        for cell in row.split(" | ")[:-1]:
            found += re.findall(r"`([^`]*[a-z]{3} [a-z…'].*?)`", cell)
    return [each for each in found if not any(text in each for text in FOREIGN)]


@pytest.mark.parametrize("message", messages())
def test_a_quoted_message_is_one_of_the_code(message):
    text = re.sub(r"^\w+: ", "", message)
    parts = [part.strip(" ,.:;") for part in VALUES.split(text)]

    missing = [part for part in parts if len(part) > 6 and part not in TEXT]

    assert not missing
