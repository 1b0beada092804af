"""The form of a new room."""

from __future__ import annotations

from typing import Any

from django import forms
from django.utils.text import slugify


class RoomForm(forms.Form):
    """The name of a room; ``cleaned_data["slug"]`` is its slug in the URL."""

    name = forms.CharField(
        label="Name of the room",
        max_length=50,
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
    )

    def clean(self) -> dict[str, Any]:
        """Derive the slug, or add an error."""
        name = self.cleaned_data.get("name", "")
        slug = slugify(name)[:50]
        if name and not slug:
            self.add_error("name", "Use at least one of the letters a-z or a digit.")
        self.cleaned_data["slug"] = slug
        return self.cleaned_data
