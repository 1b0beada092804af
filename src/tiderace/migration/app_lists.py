"""A list of apps in the settings: ``channels`` and ``daphne`` become ``tiderace``."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping

from tiderace.migration.packages import Package
from tiderace.migration.source import SourceFile

__all__ = ["AppList"]

_CHANNELS = ("channels", "channels.apps.ChannelsConfig")
_DAPHNE = ("daphne", "daphne.apps.DaphneConfig")
_TIDERACE = ("tiderace", "tiderace.apps.TideraceConfig")
_STATIC_FILES = "django.contrib.staticfiles"


class AppList:
    """The strings of one list, in their order.

    ``"tiderace"`` has a ``runserver``, so it has to precede the app of static files.

    Args:
        source: the file.
        entries: the strings.
    """

    def __init__(self, source: SourceFile, entries: list[ast.Constant]) -> None:
        self._source = source
        self._entries = entries

    def examine(self, packages: Mapping[str, Package]) -> set[int]:
        """Report the apps, and rewrite those of Channels; return what was reported."""
        seen = set()
        for entry in self._entries:
            package = packages.get(str(entry.value).partition(".")[0])
            if package is not None:
                self._source.report(entry, package.verdict, package.sentence)
        ours = [e for e in self._entries if e.value in _TIDERACE]
        old = [e for e in self._entries if e.value in _CHANNELS + _DAPHNE]
        seen |= {id(entry) for entry in old}
        kept = self._kept(old) if old and not ours else None
        for entry in old:
            if entry is kept:
                self._source.changes(entry, f'app "{entry.value!s}" becomes "tiderace"')
                if not self._source.replace_string(entry, "tiderace"):
                    self._source.changes(entry, "write it by hand")
            else:
                self._source.changes(
                    entry,
                    f'app "{entry.value!s}": "tiderace" has its commands; remove it',
                )
                self._remove(entry)
        if old and not ours and kept is None:
            self._insert()
        return seen

    def _kept(self, old: list[ast.Constant]) -> ast.Constant | None:
        """Return the first of ``old`` before the app of static files, None if it has none."""
        first = old[0]
        for entry in self._entries:
            if entry is first:
                return first
            if entry.value == _STATIC_FILES:
                return None
        return None

    def _insert(self) -> None:
        """Insert ``"tiderace"`` as the first app."""
        start, end = self._source.span(self._entries[0])
        text = self._source.text
        quote = text[end - 1]
        line, _ = self._source.line_of(start)
        indent = text[line:start]
        # Each app in a line of its own, or several in one.
        between = _line_end(text, line) + indent if not indent.strip() else " "
        self._source.replace(start, start, f"{quote}tiderace{quote},{between}")

    def _remove(self, entry: ast.Constant) -> None:
        """Remove an entry with its comma, and its line where it has one of its own."""
        text = self._source.text
        start, end = self._source.span(entry)
        if comma := re.compile(r"[ \t]*,[ \t]*").match(text, end):
            end = comma.end()
        line, after = self._source.line_of(start)
        rest = text[end:after]
        if not text[line:start].strip() and (not rest.strip() or rest[0] == "#"):
            self._source.replace(line, after, "")
        elif comma or (before := re.compile(r",\s*$").search(text[:start])) is None:
            self._source.replace(start, end, "")
        else:
            self._source.replace(before.start(), end, "")


def _line_end(text: str, start: int) -> str:
    found = re.compile(r"\r\n|\r|\n").search(text, start)
    return found[0] if found else "\n"
