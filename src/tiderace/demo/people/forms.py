"""The form a guest fills in; users have Django's own."""

from __future__ import annotations

from django import forms

from tiderace.demo.people.person import NAME_LENGTH, guest_name

__all__ = ["GuestForm"]


class GuestForm(forms.Form):
    """Asks for the name that others will see."""

    name = forms.CharField(
        label="Your name",
        max_length=NAME_LENGTH,
        widget=forms.TextInput(attrs={"autocomplete": "nickname"}),
    )

    def clean_name(self) -> str:
        """Return the name tidied, or refuse it with a sentence."""
        return guest_name(self.cleaned_data["name"])
