"""The page of the answers, and the view that has one written."""

from __future__ import annotations

import asyncio

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_POST

from tiderace.demo.answers.author import write
from tiderace.demo.answers.topics import ANSWERS

_MOST = 20  # answers that are written at once in a process
_LENGTH = 200  # characters of a question

_writing: set[asyncio.Task[None]] = set()


@login_required
def page(request: HttpRequest) -> HttpResponse:
    """Show the answers; they come with the subscription."""
    config = {"topic": ANSWERS, "user": request.user.pk}
    return render(request, "answers/page.html", {"config": config, "length": _LENGTH})


@require_POST
async def ask(request: HttpRequest) -> HttpResponse:
    """Have a question answered; the answer outlasts this request."""
    user = await request.auser()
    question = request.POST.get("question", "").strip()[:_LENGTH]
    if not user.is_authenticated:
        return HttpResponse(status=401)
    if not question:
        return HttpResponse("ask something", status=422)
    if len(_writing) >= _MOST:
        return HttpResponse("too many answers at once", status=503)
    task = asyncio.create_task(write(question, user))
    _writing.add(task)
    task.add_done_callback(_writing.discard)
    return HttpResponse(status=204)
