"""The chat's pages: the lobby, a room, and the form that pushes a notice.

Plain synchronous Django. They reach sockets through the channel layer only.
"""

from __future__ import annotations

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core import signing
from django.db.models import Count
from django.http import HttpRequest, HttpResponse, HttpResponseForbidden
from django.shortcuts import redirect, render
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from tiderace.demo.chat import notices
from tiderace.demo.chat.forms import NoticeForm, RoomForm
from tiderace.demo.chat.frames import TEXT_LENGTH
from tiderace.demo.chat.history import recent, room_name
from tiderace.demo.chat.models import Room
from tiderace.demo.people.person import Person, person_required

__all__ = ["COMMAND_SALT", "lobby", "notify", "notify_by_command", "room"]

COMMAND_SALT = "tiderace.demo.notify"
_COMMAND_AGE = 60


@person_required
def lobby(request: HttpRequest, person: Person) -> HttpResponse:
    """List the rooms; a POST opens a new one."""
    form = RoomForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        slug = form.cleaned_data["slug"]
        Room.objects.get_or_create(
            slug=slug, defaults={"name": form.cleaned_data["name"]}
        )
        return redirect("chat:room", slug=slug)
    rooms = Room.objects.annotate(said=Count("messages"))
    page = {"rooms": rooms, "form": form}
    return render(request, "chat/lobby.html", page, status=422 if form.errors else 200)


@person_required
def room(request: HttpRequest, person: Person, slug: str) -> HttpResponse:
    """Show a room with what was said last; any room's URL may be visited.

    Looking changes nothing: a room that is not listed yet is opened by the first
    message in it.
    """
    if slug != slug.lower():
        return redirect("chat:room", slug=slug.lower())
    known = Room.objects.filter(slug=slug).first()
    name = known.name if known else room_name(slug)
    page = {
        "room": name,
        "slug": slug,
        "history": recent(slug),
        "text_length": TEXT_LENGTH,
        "config": {
            "path": f"chat/{slug}/",
            "me": person.as_dict(),
        },
    }
    return render(request, "chat/room.html", page)


@login_required
def notify(request: HttpRequest) -> HttpResponse:
    """Push a notice into all rooms, or into the windows of one user."""
    form = NoticeForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        user = form.cleaned_data["user"]
        notices.push(
            form.cleaned_data["text"],
            by=request.user.get_username(),
            user=user.pk if user else None,
        )
        whom = f"the windows of {user.get_username()}" if user else "all rooms"
        messages.success(request, f"Sent to {whom}.")
        return redirect("chat:notify")
    status = 422 if form.errors else 200
    return render(request, "chat/notify.html", {"form": form}, status=status)


@csrf_exempt
@require_POST
def notify_by_command(request: HttpRequest) -> HttpResponse:
    """Push a notice for the ``notify`` command, which runs in another process.

    No cookie is read: the body is signed with the demo's key, which only
    processes that read its settings have, and is good for a minute.
    """
    try:
        order = signing.loads(
            request.body.decode("ascii"), salt=COMMAND_SALT, max_age=_COMMAND_AGE
        )
    except (signing.BadSignature, UnicodeDecodeError):
        return HttpResponseForbidden("the signature is wrong or older than a minute")
    notices.push(order["text"], by="the notify command", user=order["user"])
    return HttpResponse(status=204)
