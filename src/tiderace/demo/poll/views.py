"""The presenter's page, the voters' page, and the parts of them that htmx asks for."""

from __future__ import annotations

from typing import Any

import segno
from django.contrib.auth.decorators import login_required
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.safestring import mark_safe
from django.views.decorators.http import require_POST

from tiderace.demo.poll.forms import QuestionForm
from tiderace.demo.poll.models import Option, Question, Vote
from tiderace.demo.poll.topics import POLL, changed
from tiderace.topics import positions


@login_required
def present(request: HttpRequest) -> HttpResponse:
    """Show the question, its results and the QR code; a POST asks another question."""
    form = QuestionForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        with transaction.atomic():
            question = Question.objects.create(text=form.cleaned_data["text"])
            for text in form.cleaned_data["options"]:
                question.options.create(text=text)
            changed("asked")
        return redirect("poll:present")
    address = request.build_absolute_uri(reverse("poll:vote"))
    code = segno.make(address, error="m").svg_inline(omitsize=True, border=2)
    # The SVG is segno's, of squares alone.
    page = {"form": form, "address": address, "code": mark_safe(code)}  # noqa: S308
    status = 422 if form.errors else 200
    return render(request, "poll/present.html", _current(request) | page, status=status)


def vote(request: HttpRequest) -> HttpResponse:
    """Show the ballot, to visitors without an account too; a POST is a vote."""
    if request.method == "POST":
        option = get_object_or_404(
            Option, pk=_number(request, "option"), question__is_open=True
        )
        Vote.objects.update_or_create(
            question=option.question,
            voter=_voter(request),
            defaults={"option": option},
        )
        changed("voted")
        if "HX-Request" not in request.headers:
            return redirect("poll:vote")
        return render(request, "poll/_ballot.html", _current(request))
    return render(request, "poll/vote.html", _current(request))


def ballot(request: HttpRequest) -> HttpResponse:
    """Return the part of the page with the ballot."""
    return render(request, "poll/_ballot.html", _current(request))


def results(request: HttpRequest) -> HttpResponse:
    """Return the part of the page with the results."""
    return render(request, "poll/_results.html", _current(request))


@login_required
@require_POST
def close(request: HttpRequest) -> HttpResponse:
    """End the vote; the results stay."""
    Question.objects.filter(pk=_number(request, "question")).update(is_open=False)
    changed("asked")
    return HttpResponse(status=204)


def _number(request: HttpRequest, field: str) -> int:
    """Return the id in a field of the request; raise ``Http404`` for anything else."""
    try:
        return int(request.POST.get(field, ""))
    except ValueError:
        raise Http404(f"the field {field!r} is no id") from None


def _voter(request: HttpRequest) -> str:
    if request.user.is_authenticated:
        return f"user-{request.user.pk}"
    if not request.session.session_key:
        request.session.create()
    return str(request.session.session_key)


def _current(request: HttpRequest) -> dict[str, Any]:
    """Return the newest question, its results, and what this visitor has chosen."""
    # Before reading the votes, so that the page gets every later event.
    at = positions(POLL)[POLL]
    question = Question.objects.first()
    options = list(question.counted()) if question else []
    total = sum(option.votes for option in options)
    for option in options:
        option.percent = round(100 * option.votes / total) if total else 0
    known = request.user.is_authenticated or request.session.session_key
    mine = (
        Vote.objects.filter(question=question, voter=_voter(request)) if known else None
    )
    return {
        "question": question,
        "options": options,
        "total": total,
        "mine": mine and mine.values_list("option", flat=True).first(),
        "events": f"/connection/events?topic={POLL}&since={at.epoch}:{at.offset}",
    }
