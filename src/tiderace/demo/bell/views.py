"""The page that sends notifications, each button by another way into Django."""

from __future__ import annotations

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core import signing
from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseForbidden
from django.shortcuts import redirect, render
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from tiderace.demo.bell import tasks
from tiderace.demo.bell.forms import NotifyForm
from tiderace.demo.bell.models import notify
from tiderace.demo.people.person import person_of

COMMAND_SALT = "tiderace.demo.notify"
_COMMAND_AGE = 60


@login_required
def send(request: HttpRequest) -> HttpResponse:
    """Send a notification to everyone or to one user, from a sync view."""
    form = NotifyForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        user = form.cleaned_data["user"]
        notify(user, form.cleaned_data["text"], by=person_of(request.user).name)
        messages.success(request, f"Sent to {user or 'everyone'}.")
        return redirect("bell:send")
    page = {"form": form, "celery": tasks.INSTALLED}
    return render(request, "bell/send.html", page, status=422 if form.errors else 200)


@login_required
@require_POST
def task(request: HttpRequest) -> HttpResponse:
    """Start a Celery task that notifies its caller."""
    tasks.remind.delay(request.user.pk)
    messages.success(request, "The task was started.")
    return redirect("bell:send")


@login_required
@require_POST
def rollback(request: HttpRequest) -> HttpResponse:
    """Notify in a transaction that is rolled back: nothing is sent."""
    with transaction.atomic():
        notify(None, "This was rolled back.", by="a transaction")
        transaction.set_rollback(True)
    messages.success(request, "Saved and rolled back: no bell rang.")
    return redirect("bell:send")


@csrf_exempt
@require_POST
def by_command(request: HttpRequest) -> HttpResponse:
    """Notify for the ``notify`` command where the layer is this process's memory.

    No cookie is read: the body is signed with the secret key of the demo, and valid
    for a minute.
    """
    try:
        order = signing.loads(
            request.body.decode("ascii"), salt=COMMAND_SALT, max_age=_COMMAND_AGE
        )
    except (signing.BadSignature, UnicodeDecodeError):
        return HttpResponseForbidden("the signature is wrong or older than a minute")
    tasks.notify_by_pk(order["user"], order["text"], by="the notify command")
    return HttpResponse(status=204)
