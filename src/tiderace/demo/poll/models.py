"""Questions, their options, and one vote of each voter."""

from __future__ import annotations

from django.db import models
from django.db.models import Count, QuerySet
from django.utils import timezone

QUESTION_LENGTH = 120
OPTION_LENGTH = 60


class Question(models.Model):
    """A question; the newest one is shown to the voters."""

    text = models.CharField(max_length=QUESTION_LENGTH)
    is_open = models.BooleanField(default=True)
    asked_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return self.text

    def counted(self) -> QuerySet[Option]:
        """Return the options with their ``votes``."""
        return self.options.annotate(votes=Count("vote")).order_by("pk")


class Option(models.Model):
    """An answer that voters may choose."""

    question = models.ForeignKey(
        Question, on_delete=models.CASCADE, related_name="options"
    )
    text = models.CharField(max_length=OPTION_LENGTH)

    def __str__(self) -> str:
        return self.text


class Vote(models.Model):
    """The choice of one voter, who may change it while the question is open."""

    question = models.ForeignKey(Question, on_delete=models.CASCADE)
    option = models.ForeignKey(Option, on_delete=models.CASCADE)
    voter = models.CharField(max_length=50)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["question", "voter"], name="poll_one_vote_each"
            )
        ]

    def __str__(self) -> str:
        return f"{self.voter}: {self.option}"
