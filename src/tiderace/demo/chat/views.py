"""The chat's pages; later changes come over the topics."""

from __future__ import annotations

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import cache_control
from django.views.decorators.http import require_POST

from tiderace.demo.chat import rooms
from tiderace.demo.chat.forms import RoomForm
from tiderace.demo.chat.models import Picture, Room
from tiderace.demo.chat.text import TEXT_LENGTH
from tiderace.demo.chat.topics import REACTIONS
from tiderace.demo.people.person import person_of
from tiderace.topics import positions

PICTURE_SIZE = 5 << 20  # bytes
# The first bytes of the formats that are accepted; browsers show no other as a picture.
_FORMATS = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
}


@login_required
def lobby(request: HttpRequest) -> HttpResponse:
    """List the rooms; a POST opens a new one."""
    form = RoomForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        slug = form.cleaned_data["slug"]
        Room.objects.get_or_create(
            slug=slug, defaults={"name": form.cleaned_data["name"]}
        )
        return redirect("chat:room", slug=slug)
    slugs = [
        slug
        for slug in Room.objects.values_list("slug", flat=True)
        if rooms.may_enter(request.user, slug)
    ]
    # Before the counts, so that the page counts every later message.
    where = positions(*(f"chat:{slug}" for slug in slugs))
    found = rooms.with_unread(request.user).filter(slug__in=slugs)
    page = {"rooms": found, "form": form, "positions": where}
    return render(request, "chat/lobby.html", page, status=422 if form.errors else 200)


@login_required
def room(request: HttpRequest, slug: str) -> HttpResponse:
    """Show a room with its last messages; any room's URL may be visited.

    A room that does not exist yet is created by its first message.
    """
    if slug != slug.lower():
        return redirect("chat:room", slug=slug.lower())
    known = Room.objects.filter(slug=slug).first()
    # Before the messages, so that the page gets every later change.
    where = positions(f"chat:{slug}")
    allowed = rooms.may_enter(request.user, slug)
    config = {
        "room": slug,
        "me": person_of(request.user).as_dict(),
        "messages": rooms.page_of(slug) if allowed else [],
        "reactions": REACTIONS,
    }
    page = {
        "room": known.name if known else rooms.room_name(slug),
        "slug": slug,
        "positions": where,
        "text_length": TEXT_LENGTH,
        "config": config,
    }
    return render(request, "chat/room.html", page)


@login_required
@require_POST
def upload(request: HttpRequest) -> HttpResponse:
    """Store the picture in the body; return its id, to be sent with a message."""
    data = request.read(PICTURE_SIZE + 1)
    if len(data) > PICTURE_SIZE:
        return JsonResponse({"error": "pictures have at most 5 MB"}, status=413)
    kind = next((_FORMATS[head] for head in _FORMATS if data.startswith(head)), None)
    if kind is None:
        return JsonResponse({"error": "send a PNG, JPEG or GIF"}, status=415)
    stored = Picture.objects.create(data=data, content_type=kind, owner=request.user)
    return JsonResponse({"id": stored.pk})


@login_required
@cache_control(private=True, max_age=3600)
def picture(request: HttpRequest, pk: int) -> HttpResponse:
    """Return a picture as it was uploaded."""
    found = get_object_or_404(Picture, pk=pk)
    return HttpResponse(bytes(found.data), content_type=found.content_type)
