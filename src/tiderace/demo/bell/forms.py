"""The form of a notification."""

from __future__ import annotations

from django import forms
from django.contrib.auth.models import User

from tiderace.demo.bell.models import TEXT_LENGTH


class NotifyForm(forms.Form):
    """The text of a notification and its receiver."""

    text = forms.CharField(
        label="Notice",
        max_length=TEXT_LENGTH,
        widget=forms.Textarea(attrs={"rows": 3}),
    )
    user = forms.ModelChoiceField(
        label="For",
        queryset=User.objects.exclude(username__startswith="guest-"),
        required=False,
        empty_label="Everyone",
    )
