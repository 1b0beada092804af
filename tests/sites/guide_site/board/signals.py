"""Saving a row tells the people who look at it."""

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.contrib.auth.models import User
from django.db.models.signals import post_save
from django.dispatch import receiver

from sites.guide_site.board.models import Message


@receiver(post_save, sender=Message)
def tell_of_message(sender, instance, created, **kwargs):
    if created:
        layer = get_channel_layer()
        async_to_sync(layer.group_send)(
            f"conversation_{instance.conversation.id}",
            {
                "type": "new_message",
                "message_id": instance.id,
                "sender": instance.sender.username,
                "content": instance.content,
                "timestamp": instance.created_at.isoformat(),
            },
        )


@receiver(post_save, sender=User)
def tell_of_status(sender, instance, **kwargs):
    if hasattr(instance, "_status_changed"):
        layer = get_channel_layer()
        async_to_sync(layer.group_send)(
            "user_status_updates",
            {
                "type": "user_status_change",
                "user_id": instance.id,
                "username": instance.username,
                "is_online": instance.is_online,
            },
        )
