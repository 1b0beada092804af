"""The pages of the chat: the lobby, a room, and the form that sends a notice."""

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
from tiderace.demo.chat.forms import RoomForm, SendNoticeForm
from tiderace.demo.chat.frames import TEXT_LENGTH
from tiderace.demo.chat.history import recent, room_name
from tiderace.demo.chat.models import Room
from tiderace.demo.people.person import Person, person_required

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
    """Show a room with its last messages; any room's URL may be visited.

    A room that does not exist yet is created by its first message.
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
    """Send a notice to all rooms, or to the windows of one user."""
    form = SendNoticeForm(request.POST or None)
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
    """Send a notice for the ``notify`` command, which runs in another process.

    No cookie is read: the body is signed with the secret key of the demo, and valid
    for a minute.
    """
    try:
        order = signing.loads(
            request.body.decode("ascii"), salt=COMMAND_SALT, max_age=_COMMAND_AGE
        )
    except (signing.BadSignature, UnicodeDecodeError):
        return HttpResponseForbidden("the signature is wrong or older than a minute")
    notices.push(order["text"], by="the notify command", user=order["user"])
    return HttpResponse(status=204)
