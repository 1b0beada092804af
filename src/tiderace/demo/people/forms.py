"""The form of a guest."""

from __future__ import annotations

from django import forms

from tiderace.demo.people.person import NAME_LENGTH, guest_name


class GuestForm(forms.Form):
    """The display name of a guest."""

    name = forms.CharField(
        label="Your name",
        max_length=NAME_LENGTH,
        widget=forms.TextInput(attrs={"autocomplete": "nickname"}),
    )

    def clean_name(self) -> str:
        """Return the normalized name."""
        return guest_name(self.cleaned_data["name"])
