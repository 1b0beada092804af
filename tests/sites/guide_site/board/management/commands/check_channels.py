"""Is the layer well? Sends itself a message and reads it back."""

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.core.management.base import BaseCommand


class Command(BaseCommand):
    def handle(self, *args, **options):
        layer = get_channel_layer()
        name = "health_check"
        message = {"type": "health.check", "text": "are you there?"}
        try:
            async_to_sync(layer.send)(name, message)
            received = async_to_sync(layer.receive)([name])
            if received == message:
                self.stdout.write(self.style.SUCCESS("the layer is well"))
            else:
                self.stdout.write(self.style.ERROR(f"the layer said {received}"))
        except Exception as error:
            self.stdout.write(self.style.ERROR(f"the layer is ill: {error!r}"))
