"""The models of the guide's samples with signals."""

from django.contrib.auth.models import User
from django.db import models


class Conversation(models.Model):
    title = models.CharField(max_length=40)

    def __str__(self):
        return self.title


class Message(models.Model):
    conversation = models.ForeignKey(Conversation, on_delete=models.CASCADE)
    sender = models.ForeignKey(User, on_delete=models.CASCADE)
    content = models.TextField()
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self):
        return self.content
