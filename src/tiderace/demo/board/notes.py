"""The rows behind the board: each change locks its row, so the last writer wins."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.db import transaction
from django.utils import timezone

from tiderace.demo.board.models import TEXT_LENGTH, Column, Note
from tiderace.demo.people.person import Person
from tiderace.topics import Refuse

# A page that edits renews its lock; that of a page that is gone ends by itself.
LOCK = timedelta(seconds=30)
# Older notes are deleted, so that visitors cannot fill the disk.
_MAX_NOTES = 60


def cleaned(text: str) -> str:
    """Return a text as it is stored.

    Raises:
        Refuse: when it is empty or too long.
    """
    text = " ".join(text.split())
    if not 0 < len(text) <= TEXT_LENGTH:
        raise Refuse(f"a note has 1 to {TEXT_LENGTH} characters", code=422)
    return text


@transaction.atomic
def add(person: Person, client_id: str, text: str) -> None:
    """Add a note below the others, once for each ``client_id``."""
    last = Note.objects.filter(column=Column.TO_DO).last()
    Note.objects.get_or_create(
        author=person.name,
        client_id=client_id,
        defaults={"text": text, "rank": last.rank + 1 if last else 0},
    )
    for old in Note.objects.order_by("-id")[_MAX_NOTES:]:
        old.delete()


@transaction.atomic
def change(pk: int, person: Person, *, locked: bool = True, **fields: Any) -> None:
    """Change fields of a note.

    Args:
        pk: of the note.
        person: who changes it.
        locked: whether the change is refused while another person edits the note.
        fields: the new values.
    """
    note = _locked_row(pk)
    if locked:
        _require_editor(note, person)
    for name, value in fields.items():
        setattr(note, name, value)
    note.version += 1
    note.changed_by = person.name
    note.save()


@transaction.atomic
def remove(pk: int, person: Person) -> None:
    """Remove a note that no other person edits."""
    note = _locked_row(pk)
    _require_editor(note, person)
    note.changed_by = person.name
    note.delete()


@transaction.atomic
def unlock_all(user: str) -> None:
    """End the locks of a user."""
    for note in Note.objects.select_for_update().filter(editor=user):
        note.editor = note.editor_name = ""
        note.version += 1
        note.save()


def rank_before(column: str, before: int | None) -> float:
    """Return the rank of a place before a note, or at the end of the column."""
    ranks = list(Note.objects.filter(column=column).values_list("pk", "rank"))
    pks = [pk for pk, _ in ranks]
    at = pks.index(before) if before in pks else len(pks)
    above = ranks[at - 1][1] if at else None
    below = ranks[at][1] if at < len(ranks) else None
    if above is None:
        return 0.0 if below is None else below - 1
    return above + 1 if below is None else (above + below) / 2


def _locked_row(pk: int) -> Note:
    note = Note.objects.select_for_update().filter(pk=pk).first()
    if note is None:
        raise Refuse("that note is gone", code=404)
    return note


def _require_editor(note: Note, person: Person) -> None:
    in_use = note.locked_until is not None and note.locked_until > timezone.now()
    if in_use and note.editor not in ("", person.id):
        raise Refuse(f"{note.editor_name} is editing this note", code=423)
