"""The page of the board; later changes come over its topics."""

from __future__ import annotations

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from tiderace.demo.board.models import BOARD, TEXT_LENGTH, Column, Note
from tiderace.demo.board.notes import LOCK
from tiderace.demo.people.person import person_of
from tiderace.topics import positions


@login_required
def board(request: HttpRequest) -> HttpResponse:
    """Show the notes by column."""
    # Before reading the notes, so that the page gets every later publication.
    where = positions(BOARD)
    notes = list(Note.objects.all())
    page = {
        "positions": where,
        "columns": [
            (value, label, [note for note in notes if note.column == value])
            for value, label in Column.choices
        ],
        "text_length": TEXT_LENGTH,
        "config": {
            "topic": BOARD,
            "me": person_of(request.user).as_dict(),
            "columns": dict(Column.choices),
            "notes": [
                {"pk": n.pk, "fields": n.publication("created")["fields"]}
                for n in notes
            ],
            "lock": LOCK.total_seconds(),
        },
    }
    return render(request, "board/board.html", page)
