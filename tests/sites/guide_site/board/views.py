"""Plain views that push, and the two pages the scripts run in."""

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.contrib.auth import login
from django.contrib.auth.models import User
from django.http import HttpResponse, JsonResponse
from django.shortcuts import render
from django.utils import timezone

from sites.guide_site.board.models import Conversation, Message


def notify(request):
    layer = get_channel_layer()
    async_to_sync(layer.group_send)(
        "notifications",
        {
            "type": "notification_message",
            "message": "a newer version is out",
            "level": "info",
            "timestamp": timezone.now().isoformat(),
        },
    )
    return JsonResponse({"status": "told"})


def maintenance(request):
    layer = get_channel_layer()
    async_to_sync(layer.group_send)(
        "all_users",
        {
            "type": "maintenance_alert",
            "message": "closing in ten minutes",
            "countdown": 600,
            "action_required": True,
        },
    )
    return JsonResponse({"status": "told"})


def run_task(request):
    from sites.guide_site.board.tasks import backup_finished

    backup_finished.apply()
    return JsonResponse({"status": "told"})


def post(request):
    sender, _ = User.objects.get_or_create(username="ada")
    conversation, _ = Conversation.objects.get_or_create(id=1, title="tea")
    message = Message.objects.create(
        conversation=conversation, sender=sender, content="is anybody here?"
    )
    return JsonResponse({"id": message.id})


def log_in(request, username):
    user, _ = User.objects.get_or_create(username=username)
    login(request, user)
    return HttpResponse(username)


def go_away(request, username):
    user = User.objects.get(username=username)
    user._status_changed = True
    user.is_online = False
    user.save()
    return HttpResponse(username)


def queue_page(request):
    return render(request, "queue.html")


def room_page(request, room_name, username):
    return render(request, "room.html", {"room": room_name, "username": username})
