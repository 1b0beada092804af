"""Celery tasks that push."""

from asgiref.sync import async_to_sync
from celery import shared_task
from channels.layers import get_channel_layer
from django.utils import timezone


@shared_task
def backup_finished():
    layer = get_channel_layer()
    async_to_sync(layer.group_send)(
        "notifications",
        {
            "type": "scheduled_notification",
            "message": "the nightly copy is complete",
            "category": "system",
            "timestamp": timezone.now().isoformat(),
        },
    )


@shared_task
def note_activity(user_id, activity):
    layer = get_channel_layer()
    async_to_sync(layer.group_send)(
        f"team_updates_{user_id % 2}",
        {"type": "activity_update", "user_id": user_id, "activity": activity},
    )
